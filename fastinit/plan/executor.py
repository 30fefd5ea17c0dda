"""The executor that writes memory: fills on GPUs by the kernels, copies by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fastinit.kernels import cuda
from fastinit.kernels.cuda import Place
from fastinit.kernels.supported import is_supported

if TYPE_CHECKING:
    from fastinit._C import NativeRows


class KernelExecutor:
    """An executor that writes memory; `parts.Executor` documents the methods."""

    serves = staticmethod(is_supported)

    def launch(self, place: Place, rows: NativeRows) -> None:
        cuda.execute(place, rows)

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source)
