"""The account of a plan: how each tensor was written, in memory of any kind."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from types import FrameType

import torch
from torch import Tensor

from fastinit.manifest.manifest import Manifest, Written
from fastinit.plan.ledger import Geometry, Ledger, geometry
from fastinit.plan.parts import Pending
from fastinit.plan.records import Copy, Fill
from fastinit.tensors import boxes
from fastinit.tensors.meta import is_meta
from fastinit.tensors.storage import covers_storage, hold, storage_key
from fastinit.tensors.torch_private import Held, unwatched

# Modules that only pass a fill on, and are not its origin.
_PASSING = ("fastinit.", "torch.nn.init", "torch.overrides", "torch.utils")


class Account:
    """The account of a plan's writes, by storage.

    Attributes:
        rule: the rule of an init_cfg in force, in words; "" if code itself asks for fills.
        unmatched: rules that wrote nothing, in words.
        values: by storage on meta, the values that code wrote to it.
    """

    def __init__(self) -> None:
        self.rule = ""
        self.unmatched: list[str] = []
        self.values: dict[int, Tensor] = {}
        self._unwritten: dict[int, Held] = {}
        self._computed: dict[int, Held] = {}  # storages that code wrote other than by fills
        self._writes: defaultdict[int, Counter[Geometry]] = defaultdict(Counter)
        self._known: dict[int, Held] = {}  # keeps the keys of `_writes` unique

    def allocated(self, tensor: Tensor) -> None:
        """Note that the tensor's memory is new and unwritten."""
        if tensor.numel() > 0:
            self._unwritten[storage_key(tensor)] = hold(tensor)

    def recorded(self, storage: int, tensor: Tensor) -> None:
        """Note that a write of the tensor waits."""
        if storage not in self._known:
            self._known[storage] = hold(tensor)
        self._writes[storage][geometry(storage, tensor)[1:]] += 1
        if covers_storage(tensor):
            self._computed.pop(storage, None)

    def executed(self, storage: int) -> None:
        """Note that a record of this storage is executed, so that its `values` are outdated."""
        self.values.pop(storage, None)

    def copied(self, storage: int, copy: Copy) -> None:
        """Note that a copy that waited is executed."""
        is_told = is_meta(copy.tensor) and not is_meta(copy.source) and covers_storage(copy.tensor)
        unwritten = self._unwritten.get(storage)
        self.computed(storage, copy.tensor, copy.source if is_told else None)
        if unwritten is not None and not covers_storage(copy.tensor):
            self._unwritten[storage] = unwritten  # `recorded` has booked the part

    def computed(self, storage: int, tensor: Tensor, value: Tensor | None = None) -> None:
        """Note that code wrote this memory, not by a fill; on meta, `value` may say what."""
        self._unwritten.pop(storage, None)
        self._computed[storage] = hold(tensor)
        self.values.pop(storage, None)
        if value is not None:
            self.values[storage] = value

    def took_over(self, storage: int, source: int) -> None:
        """Note that the fills of `source` are now those of `storage`."""
        self._writes[storage] += self._writes.pop(source, Counter())

    def moved(self, old: int, flat: Tensor) -> None:
        """Note that `flat`, all of other memory, takes the place of storage `old`."""
        new = storage_key(flat)
        for group in (self._computed, self._unwritten):
            if old in group:
                group[new] = hold(flat)
        self._writes[new] = self._writes.pop(old, Counter())

    def origin(self) -> str:
        """Return what asks for a fill: the rule in force, or the line of code that calls."""
        if self.rule:
            return self.rule
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if not module.startswith(_PASSING):
                return f"{module}.{frame.f_code.co_name}, line {frame.f_lineno}"
            frame = frame.f_back
        return ""

    def has_no_values(self, tensor: Tensor) -> bool:
        """Whether no write of the tensor's memory has happened or waits since its allocation."""
        storage = storage_key(tensor)
        return storage in self._unwritten and not self._writes.get(storage)

    def is_unwritten(self, tensor: Tensor) -> bool:
        """Whether part of the tensor's memory is certainly unwritten since its allocation."""
        return self._lacks_writes(geometry(storage_key(tensor), tensor))

    def _lacks_writes(self, key: Geometry) -> bool:
        storage, start, shape, strides = key
        if storage not in self._unwritten:
            return False
        stop = start + boxes.span(shape, strides)
        most = 0  # the elements written, if no two writes overlap
        for first, size, steps in self._writes.get(storage, ()):
            last = first + boxes.span(size, steps)
            most += min(math.prod(size), max(0, min(last, stop) - max(first, start)))
        return most < math.prod(shape)

    def manifest(self, ledger: Ledger, pending: Pending) -> Manifest:
        """Return the manifest of all tensors with a name in the ledger, or drawn without one.

        Args:
            ledger: the ledger as it will be when all that is pending is executed.
            pending: records that are not executed yet.
        """
        computed = self._computed.keys() | {
            storage
            for storage in pending.storages()
            if any(type(record) is not Fill for record in pending.of(storage))
        }
        tensors: dict[Geometry, Written] = {}

        def add(key: Geometry, name: str, dtype: torch.dtype) -> None:
            storage, *place = key
            status = "unwritten" if self._lacks_writes(key) else None
            drawn = () if storage in computed else ledger.drawn.get(name, ())
            writes = self._writes[storage][tuple(place)]
            tensors[key] = Written.of(name, key[2], dtype, status, drawn, writes)

        for storage, named in ledger.named.items():
            for name, tensor in named:
                with unwatched():
                    if storage_key(tensor) != storage:  # other memory since, unknown to the plan
                        key = geometry(storage_key(tensor), tensor)
                        tensors[key] = Written.of(
                            name, tensor.shape, tensor.dtype, "computed", (), 0
                        )
                        continue
                    key = geometry(storage, tensor)
                if key in tensors:
                    first = tensors[key]
                    tensors[key] = replace(first, aliases=(*first.aliases, name))
                else:
                    add(key, name, tensor.dtype)
        for key, (name, dtype, _) in ledger.unnamed.items():
            if key not in tensors:
                add(key, name, dtype)
        return Manifest(tuple(tensors.values()), tuple(self.unmatched))
