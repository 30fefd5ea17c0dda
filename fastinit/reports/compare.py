"""Two sets of weights, tensor by tensor: what training, or another rule, has changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastinit.reports.rows import as_json, grouped, span
from fastinit.reports.values import chunks, named_values
from fastinit.tensors.shards import local_region

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


@dataclass(frozen=True)
class Change:
    """One tensor in two models.

    Attributes:
        name: its FQN.
        std: standard deviation in the first, and in the second.
        change: the norm of the difference over the norm in the first; infinite if that is 0.
        cosine: of the angle between the two; NaN if one of them is 0.
        is_equal: whether all values are equal.
    """

    name: str
    std: tuple[float, float]
    change: float
    cosine: float
    is_equal: bool


@dataclass(frozen=True)
class Comparison:
    """Two models.

    Attributes:
        changes: of the tensors that both have in the same shape.
        only: the names that the first alone has, and those that the second alone has.
        reshaped: the names that both have, in two shapes.
    """

    changes: tuple[Change, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    reshaped: tuple[str, ...]

    def to_json(self) -> str:
        """Return all of it as JSON text; what is not finite is null."""
        return as_json(asdict(self))

    def table(self) -> Table:
        """Return a table for `rich.print`, equal tensors in yellow."""
        from rich.table import Table  # here, so that importing fastinit stays fast

        shown = Table(box=None, pad_edge=False, header_style="bold")
        shown.add_column("tensor", overflow="fold")
        for title in ("std", "std then", "change", "cosine"):
            shown.add_column(title, justify="right", no_wrap=True)
        for label, group in grouped(self.changes, lambda change: change.is_equal):
            shown.add_row(
                label,
                *(span([change.std[n] for change in group]) for n in (0, 1)),
                "none" if group[0].is_equal else span([change.change for change in group]),
                span([change.cosine for change in group]),
                style="yellow" if group[0].is_equal else "",
            )
        for n, which in enumerate(("first", "second")):
            for name in self.only[n]:
                shown.add_row(name, f"in the {which} alone", style="dim")
        for name in self.reshaped:
            shown.add_row(name, "another shape", style="dim")
        return shown

    def summary(self) -> str:
        """Return a line of numbers."""
        still = sum(change.is_equal for change in self.changes)
        apart = sum(map(len, self.only)) + len(self.reshaped)
        more = f"; {apart:,} in one alone or of another shape" if apart else ""
        return f"{len(self.changes):,} tensors in both: {still or 'none'} equal{more}"

    def figure(self, *, dark: bool = False) -> Figure:
        """Return a picture: how far each tensor has moved.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from fastinit.reports.draw import draw_changes

        rows = [(label, [c.change for c in group]) for label, group in grouped(self.changes)]
        return draw_changes(rows, dark=dark)


def compare(
    first: nn.Module | Mapping[str, Tensor], second: nn.Module | Mapping[str, Tensor]
) -> Comparison:
    """Compare the floating-point tensors of two models, or mappings from names, by their names.

    Of sharded models this rank's parts are compared.

    Raises:
        TypeError: one of them is neither.
        ValueError: one of them has no values, or they have no name in common.
    """
    a, b = named_values(first), named_values(second)
    both = [name for name in a if name in b]
    if not both:
        raise ValueError(
            f"the models have no tensor of the same name: the first has {next(iter(a))!r}, ..., "
            f"the second {next(iter(b))!r}, ..."
        )
    same = [name for name in both if a[name].shape == b[name].shape]
    with torch.no_grad():
        changes = tuple(
            _change(name, local_region(a[name]).local, local_region(b[name]).local) for name in same
        )
    only = tuple(n for n in a if n not in b), tuple(n for n in b if n not in a)
    return Comparison(changes, only, tuple(name for name in both if name not in same))


def _change(name: str, a: Tensor, b: Tensor) -> Change:
    sums = [0.0] * 6
    is_equal = True
    for x, other in zip(chunks(a), chunks(b), strict=True):
        y = other.to(x.device)
        is_equal = is_equal and torch.equal(x, y)
        terms = (x, y, x * x, y * y, x * y, (y - x).square())
        sums = [total + float(term.sum()) for total, term in zip(sums, terms, strict=True)]
    n = max(a.numel(), 1)
    ones, others, squares, other_squares, product, difference = sums
    deviations = (
        math.sqrt(max(squares / n - (ones / n) ** 2, 0.0)),
        math.sqrt(max(other_squares / n - (others / n) ** 2, 0.0)),
    )
    norms = math.sqrt(squares * other_squares)
    change = math.sqrt(difference / squares) if squares else (math.inf if difference else 0.0)
    return Change(name, deviations, change, product / norms if norms else math.nan, is_equal)
