"""torch.compile's stance while plans are open."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

COMPILER = "torch._dynamo"
"""The module that is loaded with the compiler, without which there is nothing to hold."""


class Stance:
    """Lets compiled code run as it is written: the compiler would look into our mode.

    The stance is the process's: held while any thread has a plan open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._stance: AbstractContextManager[Any] = nullcontext()

    def hold(self) -> None:
        """Hold it for one more plan."""
        with self._lock:
            self._holders += 1
            if self._holders == 1 and hasattr(torch.compiler, "set_stance"):
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()

    def release(self) -> None:
        """Hold it for one plan less."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._stance.__exit__(None, None, None)


stance = Stance()
