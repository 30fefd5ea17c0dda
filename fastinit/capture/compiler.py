"""The stance of torch.compile while plans are open."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

COMPILER = "torch._dynamo"
"""The compiler's module: until it is loaded there is no stance to hold."""


class Stance:
    """A counted hold on the stance "force_eager": compiled code runs as it is written.

    The compiler would otherwise trace the function mode. The stance belongs to the process, and is
    held while any thread has a plan open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._stance: AbstractContextManager[Any] = nullcontext()

    def hold(self) -> None:
        """Hold the stance for one more plan."""
        with self._lock:
            self._holders += 1
            if self._holders == 1 and hasattr(torch.compiler, "set_stance"):
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()

    def release(self) -> None:
        """Hold the stance for one plan less."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._stance.__exit__(None, None, None)


stance = Stance()
