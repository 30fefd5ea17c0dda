"""The stance of torch.compile while plans are open."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

import torch

from fastinit.capture.held import Held


def is_loaded() -> bool:
    """Whether the compiler is loaded, to its end: until then there is no stance to hold."""
    return hasattr(sys.modules.get("torch._dynamo"), "set_stance")


class Stance(Held):
    """The stance "force_eager": compiled code runs as it is written.

    The compiler would otherwise trace the function mode. The stance belongs to the process.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stance: AbstractContextManager[Any] | None = None

    def _put(self) -> None:
        if self._stance is None and hasattr(torch.compiler, "set_stance"):
            self._stance = torch.compiler.set_stance("force_eager")
            self._stance.__enter__()

    def _take_away(self) -> None:
        if self._stance is not None:
            self._stance.__exit__(None, None, None)
            self._stance = None


stance = Stance()
