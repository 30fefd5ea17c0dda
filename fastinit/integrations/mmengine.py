"""mmengine under unmodified code: `init_weights` of its own BaseModule as one fill.

What mmengine does stays mmengine's: its registries with their scopes, its initializers and those of
users, its checkpoint loader, its report. Ours are the plan around the outermost call, in which
fills wait until the end, and the knowledge of who wrote what, for which mmengine compares means.
Inside `fastinit.build` and `fastinit.fused` the plan is there without `install`
(`capture/means.py`).
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType, TracebackType
from typing import Any

from fastinit.capture.opened import initializing
from fastinit.init_cfg.mixed import INFO, ParamsInitInfo
from fastinit.init_cfg.module import restoring
from fastinit.kernels.native import is_native
from fastinit.plan.current import current
from fastinit.tensors.walk import walk

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
    every `is_init` is restored and mmengine's bookkeeping is taken off the modules.

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
        for each in _family(kind):
            _wrap(each)

        def derived(cls: Any, /, **kwargs: Any) -> None:
            super(kind, cls).__init_subclass__(**kwargs)
            _wrap(cls)

        kind.__init_subclass__ = classmethod(derived)
        theirs = _update_init_info()
        theirs.__wrapped__ = FunctionType(theirs.__code__, theirs.__globals__, theirs.__name__)
        theirs.__code__ = _served.__code__  # by which those follow who have imported it before
    return Installation(before)


def uninstall() -> None:
    """Let mmengine's BaseModule and its subclasses be as they were."""
    kind = _base_module()
    if is_installed():
        del kind.__init_subclass__
        theirs = _update_init_info()
        theirs.__code__ = theirs.__wrapped__.__code__
        del theirs.__wrapped__
    for each in _family(kind):
        own = vars(each).get("init_weights")
        if hasattr(own, _STOCK):
            each.init_weights = getattr(own, _STOCK)


def is_installed() -> bool:
    """Whether `install` is in force."""
    return hasattr(_base_module().init_weights, _STOCK)


def _served(module, init_info):  # type: ignore[no-untyped-def]
    # In mmengine's globals.
    from fastinit.init_cfg.mixed import update_init_info

    update_init_info(module, init_info)


def _update_init_info() -> Any:
    return importlib.import_module("mmengine.model.weight_init").update_init_info


def _base_module() -> Any:
    return importlib.import_module("mmengine.model.base_module").BaseModule


def _family(kind: Any) -> Iterator[Any]:
    """Yield a class and all that are derived from it."""
    ahead, seen = [kind], set()
    while ahead:
        each = ahead.pop()
        if each not in seen:
            seen.add(each)
            yield each
            ahead += each.__subclasses__()


def _wrap(kind: Any) -> None:
    own = vars(kind).get("init_weights")
    if inspect.isfunction(own) and not hasattr(own, _STOCK):
        kind.init_weights = _planned(own)


def _planned(init_weights: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(init_weights)
    def planned(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Part of a call, of a plan, or not to be deferred.
        if hasattr(self, INFO) or current() is not None or not is_native():
            return init_weights(self, *args, **kwargs)
        modules = walk(self)
        try:
            with restoring(modules), initializing(self, modules) as initialization:
                info = ParamsInitInfo(initialization)
                for _, module in modules:
                    vars(module)[INFO] = info
                found = init_weights(self, *args, **kwargs)
            if self.is_init:  # its BaseModule's has run, which now is not what was called first
                self._dump_init_info()
            return found
        finally:
            for module in self.modules():
                vars(module).pop(INFO, None)

    setattr(planned, _STOCK, init_weights)
    return planned
