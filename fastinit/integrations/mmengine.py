"""mmengine under unmodified code: `init_weights` of its own BaseModule as one fill.

What mmengine does stays mmengine's: its registries with their scopes, its initializers and those of
users, its checkpoint loader, its report. Only the plan around the outermost call is ours: fills
wait until the end, and the means that mmengine compares are not computed (`capture/means.py`).
Inside `fastinit.build` and `fastinit.fused` that is so without `install`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch import nn

from fastinit.capture.opened import opened
from fastinit.init_cfg.module import restoring
from fastinit.kernels.native import is_native
from fastinit.plan.current import current
from fastinit.tensors.walk import walk

_INFO = "_params_init_info"
_STOCK = "_fastinit_stock"  # of our function: what it stands for


class Installation:
    """What `install` returns: a context manager that uninstalls at its end, if it installed."""

    def __init__(self, was_installed: bool) -> None:
        self._was_installed = was_installed

    def __enter__(self) -> Installation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._was_installed:
            uninstall()


def install() -> Installation:
    """Let `init_weights` of mmengine's BaseModule run in a plan, from now on.

    Also for modules and subclasses that exist, whatever was imported first; a second call does
    nothing. On the torch backend, mmengine's code runs as it is. A seed is drawn from torch's
    default generator, so that `torch.manual_seed` governs. If a call raises, what waits is dropped,
    every `is_init` is restored and mmengine's bookkeeping is taken off the modules. Code of a
    subclass outside `super().init_weights()` runs as it is.

    Returns:
        A context manager that uninstalls at its end: `with install(): model.init_weights()`.

    Raises:
        ModuleNotFoundError: mmengine is not installed.

    Examples:
        >>> from fastinit.integrations import mmengine
        >>> mmengine.install()
    """
    kind = _base_module()
    before = is_installed()
    if not before:
        kind.init_weights = _planned(kind.init_weights)
    return Installation(before)


def uninstall() -> None:
    """Let mmengine's BaseModule be as it was."""
    kind = _base_module()
    kind.init_weights = getattr(kind.init_weights, _STOCK, kind.init_weights)


def is_installed() -> bool:
    """Whether `install` is in force."""
    return hasattr(_base_module().init_weights, _STOCK)


def _base_module() -> Any:
    return importlib.import_module("mmengine.model.base_module").BaseModule


def _planned(init_weights: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(init_weights)
    def planned(self: nn.Module) -> Any:
        if hasattr(self, _INFO) or not is_native():  # part of a call, or not to be deferred
            return init_weights(self)
        try:
            if current() is not None:
                return init_weights(self)
            modules = walk(self)
            with restoring(modules), opened(self, modules):
                return init_weights(self)
        finally:
            for module in self.modules():
                vars(module).pop(_INFO, None)

    setattr(planned, _STOCK, init_weights)
    return planned
