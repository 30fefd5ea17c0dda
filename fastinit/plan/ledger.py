"""The ledger: which tensor draws from which stream, and what was drawn."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastinit.kernels import table
from fastinit.kernels.distributions import Parameters
from fastinit.kernels.streams import stream_of
from fastinit.kernels.table import Row
from fastinit.manifest.manifest import Drawn
from fastinit.plan import fan_groups
from fastinit.plan.records import Fill
from fastinit.tensors import boxes
from fastinit.tensors.boxes import Box
from fastinit.tensors.storage import hold, storage_key
from fastinit.tensors.torch_private import Held, storage_id

Geometry = tuple[Any, ...]


def geometry(storage: int, tensor: Tensor) -> Geometry:
    """Return the identity of a tensor, the same for other objects over the same elements."""
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride()


class Ledger:
    """The names of tensors, and what was drawn from the stream of each.

    Attributes:
        named: by storage, the names of its tensors; the first name of a tensor is its stream's.
        unnamed: by geometry, "#n" for the n-th tensor without a name that was drawn.
        drawn: by name, the fills that a tensor's values come from; empty unless `keeps_drawn`.
    """

    def __init__(self, keeps_drawn: bool) -> None:
        self.named: defaultdict[int, list[tuple[str, Tensor]]] = defaultdict(list)
        self.unnamed: dict[Geometry, tuple[str, torch.dtype, Held]] = {}
        self.drawn: dict[str, list[Drawn]] = {}
        self._draws: dict[str, int] = {}
        self._homes: dict[int, int] = {}  # by id of a named tensor, its storage
        self._keeps_drawn = keeps_drawn
        self._groups = fan_groups.declared()

    @property
    def has_fan_groups(self) -> bool:
        return bool(self._groups)

    def copy(self) -> Ledger:
        """Return a copy, in which draws leave this ledger as it is."""
        twin = Ledger(self._keeps_drawn)
        twin.named = self.named
        twin._groups = self._groups
        twin.unnamed = dict(self.unnamed)
        twin.drawn = {name: list(drawn) for name, drawn in self.drawn.items()}
        twin._draws = dict(self._draws)
        return twin

    def add(self, name: str, tensor: Tensor) -> None:
        """Name a tensor."""
        storage = storage_key(tensor)
        self.named[storage].append((name, tensor))
        self._homes[id(tensor)] = storage

    def follow(self, tensor: Tensor) -> None:
        """Note that a tensor has other memory: its names go along, what was drawn does not."""
        old, new = self._homes.get(id(tensor)), storage_key(tensor)
        if old is None or old == new:
            return
        names = self.named.pop(old)
        if stay := [named for named in names if named[1] is not tensor]:
            self.named[old] = stay
        for name, _ in (gone := [named for named in names if named[1] is tensor]):
            self.drawn.pop(name, None)
        self.named[new] += gone
        self._homes[id(tensor)] = new

    def moved(self, old: int, storage: torch.UntypedStorage) -> None:
        """Note that the tensors of storage `old` are over `storage` now."""
        new = storage_id(storage)
        if old in self.named:
            self.named[new] = self.named.pop(old)
            self._homes |= {id(tensor): new for _, tensor in self.named[new]}
        for key in [key for key in self.unnamed if key[0] == old]:
            place = (new, *key[1:])
            self.unnamed[place] = self.unnamed.pop(key)

    def draw(self, storage: int, fill: Fill, seed: int) -> list[Row]:
        """Return the rows of the kernels' table for a fill that is executed now.

        Raises:
            ValueError: fan groups that do not fit the tensor.
        """
        name, start, box, whole = self.place(storage, fill.tensor)
        if name not in self._draws:  # draws from before the tensor had a name count
            unnamed = self.unnamed.get(geometry(storage, whole))
            self._draws[name] = self._draws.get(unnamed[0], 0) if unnamed else 0
        draw = self._draws[name]
        self._draws[name] = draw + 1
        stream = f"{name}@{draw}" if draw else name
        is_whole = fill.tensor.numel() == whole.numel()
        is_same = fill.tensor.shape == whole.shape and fill.tensor.stride() == whole.stride()
        levels = self._levels_of(name) if fill.fan_rule is not None and is_same else None
        if levels is not None:
            return self._draw_parts(name, stream, fill, seed, whole, levels)
        if self._keeps_drawn:
            drawn = Drawn.of(fill.kind, fill.parameters, stream, seed, fill.origin)
            if is_whole:
                self.drawn[name] = [drawn]
            elif isinstance(box, tuple):
                part = tuple((size, step) for size, _, step in box)
                if boxes.ranges(start, part, whole.shape) is not None:
                    drawn = replace(drawn, start=start, box=part)
                    self.drawn.setdefault(name, []).append(drawn)
                else:  # a manifest cannot describe this part
                    self.drawn[name] = []
        number = stream_of(stream)
        return [table.row(fill.tensor, fill.kind, fill.parameters, seed, number, start, box)]

    def without_groups(self) -> list[str]:
        """Return names with fan groups whose tensors were drawn before they had the name."""
        return [
            name
            for storage, named in self.named.items()
            for name, tensor in named
            if self._levels_of(name) and geometry(storage, tensor) in self.unnamed
        ]

    def _levels_of(self, name: str) -> tuple[fan_groups.Level, ...] | None:
        return fan_groups.levels_of(name, self._groups) if self._groups else None

    def _draw_parts(
        self,
        name: str,
        stream: str,
        fill: Fill,
        seed: int,
        whole: Tensor,
        levels: tuple[fan_groups.Level, ...],
    ) -> list[Row]:
        """Return the rows for a tensor's logical matrices; one row if all parameters are equal."""
        assert fill.fan_rule is not None
        blocks: dict[Parameters, list[tuple[slice, ...]]] = {}
        for where, shape in fan_groups.parts(name, whole.shape, levels):
            by_fans = fill.fan_rule(shape)
            padded = (*by_fans, *fill.parameters[len(by_fans) :])
            blocks.setdefault(padded, []).append(where)  # type: ignore[arg-type]
        rows = []
        if self._keeps_drawn:
            self.drawn[name] = []
        for parameters, regions in blocks.items():
            drawn = Drawn.of(fill.kind, parameters, stream, seed, fill.origin)
            if self._keeps_drawn and not self.drawn[name]:  # of all; the others overwrite parts
                self.drawn[name].append(drawn)
            for where in regions if len(blocks) > 1 else [()]:
                view = whole[where] if where else whole
                place = boxes.box_in(view, whole)
                assert place is not None
                row = (view, fill.kind, parameters, seed, stream_of(stream), *place)
                rows.append(table.row(*row))
                if self._keeps_drawn and where and drawn is not self.drawn[name][0]:
                    box = tuple((size, step) for size, _, step in place[1])  # type: ignore[union-attr]
                    self.drawn[name].append(replace(drawn, start=place[0], box=box))
        return rows

    def place(self, storage: int, tensor: Tensor) -> tuple[str, int, Box, Tensor]:
        """Return (name, start, box, whole) of a tensor in the first named tensor that contains it,
        else on its own."""
        for name, whole in self.named.get(storage, ()):
            place = boxes.own_box(whole) if tensor is whole else boxes.box_in(tensor, whole)
            if place is not None:
                return name, *place, whole
        key = geometry(storage, tensor)
        if key not in self.unnamed:
            self.unnamed[key] = (f"#{len(self.unnamed)}", tensor.dtype, hold(tensor))
        start, box = boxes.own_box(tensor)
        return self.unnamed[key][0], start, box, tensor
