"""The interfaces between a plan and its parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from fastinit.kernels.cuda import Place
from fastinit.plan.draws import Draws

if TYPE_CHECKING:
    from fastinit._C import NativeRows, Recorder


class Host(Protocol):
    """The plan, as far as the part that knows DTensors asks for it; `plan.Plan` documents it."""

    seed: int
    explicit_seed: int | None
    draws: Draws | None

    @property
    def pending(self) -> Recorder: ...
    def flush(self, storages: Iterable[int]) -> None: ...
    def overwrite(self, tensor: Tensor) -> None: ...


class Executor(Protocol):
    """The part that carries out what the recorder does not do itself."""

    def serves(self, tensor: Tensor) -> bool:
        """Whether fills of the tensor may wait for this executor; others fall back to torch."""

    def launch(self, place: Place, rows: NativeRows) -> None:
        """Fill by rows on a GPU; no two of them write the same memory."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Write all of `target` with the values of `source`."""
