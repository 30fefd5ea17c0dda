"""The executor that writes memory: fills by the kernels, copies by torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastinit.kernels import table
from fastinit.kernels.cuda import Place
from fastinit.kernels.supported import is_supported
from fastinit.kernels.table import Row
from fastinit.plan.records import Fill


class KernelExecutor:
    """An executor that writes memory; `parts.Executor` documents the methods."""

    serves = staticmethod(is_supported)

    def value_of(self, tensor: Tensor, kind: int, parameters: Sequence[float]) -> Tensor | None:
        return None

    def fill(self, drawn: Sequence[tuple[Fill, Sequence[Row]]]) -> None:
        by_place: dict[Place | None, list[Row]] = {}
        for fill, rows in drawn:
            by_place.setdefault(fill.place, []).extend(rows)
        for place, rows in by_place.items():
            try:
                table.execute(place, rows)
            except table.Overlap:  # two storages over one memory, as by torch.from_numpy
                for row in rows:
                    table.execute(place, [row])

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source)
