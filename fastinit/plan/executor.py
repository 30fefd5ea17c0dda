"""The executor that writes memory: fills on GPUs by the kernels, copies by torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastinit.kernels import table
from fastinit.kernels.cuda import Place
from fastinit.kernels.supported import is_supported
from fastinit.kernels.table import Row


class KernelExecutor:
    """An executor that writes memory; `parts.Executor` documents the methods."""

    serves = staticmethod(is_supported)

    def launch(self, place: Place, rows: Sequence[Row]) -> None:
        try:
            table.execute(place, rows)
        except table.Overlap:  # two storages over one memory
            for row in rows:
                table.execute(place, [row])

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source)
