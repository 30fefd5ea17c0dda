"""The manifest: what a plan wrote, as data to read and to keep.

A manifest is JSON: the version of the stream, and for every tensor the fills that its values come
from. A value is a pure function of seed, stream, index, distribution, arguments and dtype, so a
slice of any parameter can be made again from its entry alone, without the model, on any machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastinit.kernels import distributions, table
from fastinit.kernels.distributions import DISTRIBUTIONS, Distribution, Parameters, as_cast
from fastinit.kernels.streams import stream_of
from fastinit.kernels.table import Row
from fastinit.tensors import boxes

if TYPE_CHECKING:
    from rich.table import Table

VERSION = 1  # of the stream
FORMAT = 2  # of the manifest; those of format 1 have no tails, and do not tell their format


@dataclass(frozen=True)
class Drawn:
    """One executed fill of a tensor, or of a box of one.

    Attributes:
        rule: the name of the distribution, see `kernels/distributions.py`.
        parameters: its arguments by their names.
        stream: the name of the Philox stream, see "Streams" in csrc/stream/STREAM.md.
        seed: the 64-bit Philox key.
        start: row-major index of the first element written.
        box: (size, index stride) of each dimension written; None for the whole tensor.
        origin: the rule of an init_cfg or the line of code that asked for it; "" if unknown.
        tail: operations of torch that followed, (name, arguments): ("mul", {"other": 0.5}).
    """

    rule: str
    parameters: dict[str, float]
    stream: str
    seed: int
    start: int = 0
    box: tuple[tuple[int, int], ...] | None = None
    origin: str = ""
    tail: tuple[tuple[str, dict[str, float]], ...] = ()

    @classmethod
    def of(
        cls,
        kind: int,
        parameters: Parameters,
        stream: str,
        seed: int,
        origin: str,
        start: int = 0,
        box: tuple[tuple[int, int], ...] | None = None,
        tail: Sequence[tuple[str, Sequence[tuple[str, float]]]] = (),
    ) -> Drawn:
        """Return the entry for a fill of a whole tensor, or of a box of one."""
        distribution = DISTRIBUTIONS[kind]
        named = _named(distribution, parameters)
        told = tuple((name, dict(given)) for name, given in tail)
        return cls(distribution.name, named, stream, seed, start, box, origin, told)

    def cast(self) -> Drawn:
        """Return this fp32 fill as one rounded to 16 bits."""
        distribution = distributions.distribution_of(self.rule)
        return replace(
            self,
            parameters=_named(distribution, as_cast(distribution.kind, self._values(distribution))),
        )

    def row(self, tensor: Tensor, start: int, box: boxes.Box) -> Row:
        """Return the table row that writes part of the whole, at `start` and `box`, to `tensor`."""
        distribution = distributions.distribution_of(self.rule)
        stream = stream_of(self.stream)
        return table.row(
            tensor, distribution.kind, self._values(distribution), self.seed, stream, start, box
        )

    def _values(self, distribution: Distribution) -> Parameters:
        given = [self.parameters.get(name, 0.0) for name in distribution.arguments]
        return (*given, 0.0, 0.0, 0.0)[:4]  # type: ignore[return-value]


def _shown(given: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g}" for value in given.values())


def _named(distribution: Distribution, parameters: Parameters) -> dict[str, float]:
    """Return parameters by name, without a "cast" of 0."""
    found = dict(zip(distribution.arguments, parameters, strict=False))
    return {name: value for name, value in found.items() if name != "cast" or value}


@dataclass(frozen=True)
class Written:
    """A tensor of a plan.

    Attributes:
        name: the FQN, or "#n" for the n-th tensor without a name.
        shape, dtype: those of the whole tensor.
        status: "filled", "computed" (code gave it other values) or "unwritten" (in whole or in
            part).
        fills: the fills that the values of a filled tensor come from, in order.
        writes: how many fills were asked for, also those overwritten before they were executed.
        aliases: further names of the same tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    status: str
    fills: tuple[Drawn, ...] = ()
    writes: int = 0
    aliases: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        status: str | None,
        drawn: Sequence[Drawn],
        writes: int,
        aliases: tuple[str, ...] = (),
    ) -> Written:
        """Return an entry; a status of None becomes "filled" if fills cover it, else "computed"."""
        if status is None:
            status = "filled" if _are_all(drawn, shape) else "computed"
        used = tuple(drawn) if status == "filled" else ()
        name_of_dtype = distributions.dtype_name(dtype)
        return cls(name, tuple(shape), name_of_dtype, status, used, writes, aliases)


def _are_all(drawn: Sequence[Drawn], shape: Sequence[int]) -> bool:
    """Whether the fills cover the tensor: the first fills all of it, or they are its parts."""
    if not drawn or drawn[0].box is None:
        return bool(drawn)
    parts = [boxes.ranges(d.start, d.box, shape) for d in drawn if d.box is not None]
    known = [part for part in parts if part is not None]
    return len(known) == len(drawn) and boxes.are_all(known, shape)


@dataclass(frozen=True)
class Manifest:
    """The tensors of a plan, and `unmatched`, the rules of an init_cfg that wrote nothing."""

    tensors: tuple[Written, ...]
    unmatched: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return JSON text, which `read.load` reads."""
        data = {"stream_version": VERSION, "format": FORMAT, **asdict(self)}
        return json.dumps(data, indent=1)

    def table(self) -> Table:
        """Return a table for `rich.print`: a row for each fill, or tensor without fills."""
        from rich.table import Table  # here, so that importing fastinit stays fast

        shown = Table()
        for heading in ("tensor", "shape", "dtype", "rule", "stream", "seed", "origin"):
            shown.add_column(heading, overflow="fold")  # a rule without its end says another law
        for tensor in self.tensors:
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            name = " = ".join((tensor.name, *tensor.aliases))
            if not tensor.fills:
                shown.add_row(name, shape, tensor.dtype, f"[i]{tensor.status}[/i]")
            for drawn in tensor.fills:
                arguments = ", ".join(f"{k}={v:g}" for k, v in drawn.parameters.items())
                part = "" if drawn.box is None else " (part)"
                again = f" [i]written {tensor.writes} times[/i]" if tensor.writes > 1 else ""
                after = "".join(f".{name}({_shown(given)})" for name, given in drawn.tail)
                rule = f"{drawn.rule}({arguments}){after}{part}{again}"
                row = (name, shape, tensor.dtype, rule, drawn.stream, str(drawn.seed))
                shown.add_row(*row, drawn.origin)
        for rule_text in self.unmatched:
            shown.add_row("[i]nothing[/i]", "", "", rule_text)
        return shown

    def named(self, name: str) -> Written:
        """Return the tensor of this name or alias.

        Raises:
            KeyError: there is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            close = get_close_matches(name, self._by_name, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise KeyError(f"the manifest has no tensor {name!r}{hint}") from None

    @cached_property
    def _by_name(self) -> dict[str, Written]:
        return {name: t for t in reversed(self.tensors) for name in (t.name, *t.aliases)}
