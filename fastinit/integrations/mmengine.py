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
import threading
from collections.abc import Callable, Iterator
from types import FunctionType, TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from fastinit.capture.opened import initializing, opened
from fastinit.init_cfg.mixed import INFO, ParamsInitInfo
from fastinit.init_cfg.module import restoring
from fastinit.kernels.native import is_native
from fastinit.plan.current import current
from fastinit.tensors.walk import walk

_lock = threading.RLock()
_holders = 0  # calls of `install` whose context has not ended
_stock: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # by function of ours, mmengine's


class Installation:
    """What `install` returns: a context manager that gives it up at its end."""

    def __init__(self) -> None:
        self._is_held = True

    def __enter__(self) -> Installation:
        if not self._is_held:  # entered again
            install()
            self._is_held = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _holders
        with _lock:
            self._is_held = False
            _holders = max(_holders - 1, 0)
            if _holders == 0:
                uninstall()


def install() -> Installation:
    """Let `init_weights` of mmengine's BaseModule run in a plan, from now on.

    Also for modules and subclasses that exist, whatever was imported first; a second call changes
    nothing. On the torch backend, mmengine's code runs as it is. A seed is drawn from torch's
    default generator, so that `torch.manual_seed` governs. If a call raises, what waits is dropped,
    every `is_init` is restored and mmengine's bookkeeping is taken off the modules.

    Returns:
        A context manager: `with install(): model.init_weights()`. At the end of the last one,
        whatever thread it is of, mmengine is as it was.

    Raises:
        ModuleNotFoundError: mmengine is not installed.

    Examples:
        >>> from fastinit.integrations import mmengine
        >>> mmengine.install()
    """
    global _holders
    kind = _base_module()
    with _lock:
        _holders += 1
        if is_installed():
            return Installation()
        for each in _family(kind):
            _wrap(each, kind)

        def derived(cls: Any, /, **kwargs: Any) -> None:
            super(kind, cls).__init_subclass__(**kwargs)
            _wrap(cls, kind)

        kind.__init_subclass__ = classmethod(derived)
        theirs = _update_init_info()
        theirs.__wrapped__ = FunctionType(theirs.__code__, theirs.__globals__, theirs.__name__)
        theirs.__code__ = _served.__code__  # by which those follow who have imported it before
    return Installation()


def uninstall() -> None:
    """Let mmengine's BaseModule and its subclasses be as they were, whoever has installed."""
    global _holders
    kind = _base_module()
    with _lock:
        _holders = 0
        if is_installed():
            del kind.__init_subclass__
            theirs = _update_init_info()
            theirs.__code__ = theirs.__wrapped__.__code__
            del theirs.__wrapped__
        for each in _family(kind):
            _unwrap(each)


def is_installed() -> bool:
    """Whether `install` is in force."""
    return "__init_subclass__" in vars(_base_module())


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


def _stock_of(function: Any) -> Any:
    """Return what a function of ours stands for; None for any other. (A decorated one is another:
    it has copies of our attributes.)"""
    return _stock.get(function) if inspect.isfunction(function) else None


def _wrap(kind: Any, base: Any) -> None:
    own = vars(kind).get("init_weights")
    if not inspect.isfunction(own) or _stock_of(own) is not None:
        return
    ours = _with_provenance(own) if kind is base else _planned(own)
    _stock[ours] = own
    kind.init_weights = ours


def _unwrap(cls: Any) -> None:
    """Give a class back its own `init_weights`."""
    if (stock := _stock_of(vars(cls).get("init_weights"))) is not None:
        cls.init_weights = stock


def _planned(init_weights: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a subclass's `init_weights`, so that its code outside `super()` runs in the plan too."""

    @functools.wraps(init_weights)
    def planned(self: Any, *args: Any, **kwargs: Any) -> Any:
        _drop_old_info(self)
        # Part of a call, of a plan, or not to be deferred.
        if INFO in vars(self) or current() is not None or not is_native():
            return init_weights(self, *args, **kwargs)
        modules = walk(self)
        try:
            with restoring(modules), opened(self, modules):
                return init_weights(self, *args, **kwargs)
        finally:
            _take_off(self)

    return planned


def _with_provenance(init_weights: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the `init_weights` of BaseModule itself, whose outermost call reports who wrote what."""

    @functools.wraps(init_weights)
    def recorded(self: Any) -> Any:
        _drop_old_info(self)
        if INFO in vars(self) or not is_native():
            return init_weights(self)
        modules = walk(self)
        try:
            with restoring(modules), initializing(self, modules) as initialization:
                info = ParamsInitInfo(initialization)
                for module in self.modules():
                    vars(module)[INFO] = info
                found = init_weights(self)
            self._dump_init_info()
            return found
        finally:
            _take_off(self)

    return recorded


def _drop_old_info(module: Any) -> None:
    """Take off what a copy that was made during an earlier `init_weights` has kept of it."""
    info = vars(module).get(INFO)
    if isinstance(info, ParamsInitInfo) and info.is_over:
        del vars(module)[INFO]


def _take_off(root: Any) -> None:
    for module in root.modules():
        info = vars(module).pop(INFO, None)
        if isinstance(info, ParamsInitInfo):
            info.is_over = True
