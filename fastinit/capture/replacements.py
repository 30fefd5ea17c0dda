"""The functions that replace those of `torch.nn.init` while a plan is open.

While any thread has a plan open, the attributes of `torch.nn.init` themselves are exchanged: a call
then costs no step through the mode. Other threads pass through. Names that code imported earlier,
and functions that other libraries have put there, are seen by the mode as they ever were.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple, TypeVar

import torch

from fastinit.capture.held import Held
from fastinit.kernels.native import _C
from fastinit.tensors.torch_private import EAGER

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


class Replacement(NamedTuple):
    """The replacement of a function of `torch.nn.init`.

    Attributes:
        ours: the function that takes its place, with the same arguments.
        arguments: names of torch's arguments, without the tensor, which comes first.
    """

    ours: Function
    arguments: tuple[str, ...]


_BY_NAME: dict[str, Replacement] = {}
_BY_CODE: dict[CodeType, Replacement] = {}
_TORCHS: set[CodeType] = set()


def replaces(original: Function, by_fans: bool = False) -> Callable[[F], F]:
    """Register the decorated function, of the same name, for one of `torch.nn.init`.

    Args:
        original: torch's function.
        by_fans: whether it ends in one fill whose parameters are decided by fans, so that this fill
            may be taken for the function, which a mode does not see itself.
    """
    # Other libraries may have wrapped it before this import: their wrappers share one code.
    code: Any = getattr(inspect.unwrap(original), "__code__", None)
    is_torchs = code is not None and code.co_filename == torch.nn.init.__file__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount] if is_torchs else ()

    def register(ours: F) -> F:
        replacement = _BY_NAME[ours.__name__] = Replacement(ours, names)
        if is_torchs:
            _TORCHS.add(code)
        if by_fans and is_torchs:
            _BY_CODE[code] = replacement
        return ours

    return register


def replacement_of(func: Function) -> Function | None:
    """Return the replacement of a function of `torch.nn.init` that a mode sees.

    The function may be another library's, put in the place of torch's: torch's own looks itself up
    by name, and so shows modes whatever is there.
    """
    if (known := exchange.known.get(func)) is not None:
        return known
    name = getattr(func, "__name__", "")
    if name not in _BY_NAME or _eager(func) is not getattr(eager, name, None):
        return None
    return _BY_NAME[name].ours


def replacement_by_code(code: CodeType) -> Replacement | None:
    """Return the replacement of the function with this code, however it was imported."""
    return _BY_CODE.get(code)


def _eager(function: Any) -> Any:
    """Return the function that ours has taken the place of, or else the function itself."""
    return getattr(function, EAGER, function)


class _Eager:
    """`torch.nn.init` as it is without open plans."""

    def __getattr__(self, name: str) -> Any:
        return _eager(getattr(torch.nn.init, name))


eager: Any = _Eager()


class Exchange(Held):
    """The exchange of torch's initialisers for ours.

    Attributes:
        known: ours, by torch's functions and by those that took their places.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Function, Function] = {}

    def _put(self) -> None:
        if self.known:
            return
        for name, replacement in _BY_NAME.items():
            found: Any = getattr(torch.nn.init, name, None)
            # Not another library's, whose law is its own.
            if getattr(found, "__code__", None) in _TORCHS:
                call = _exchanged(found, replacement.ours)
                self.known |= {found: replacement.ours, call: replacement.ours}
                setattr(torch.nn.init, name, call)

    def _take_away(self) -> None:
        if not self.known:
            return
        for name in _BY_NAME:
            found = getattr(torch.nn.init, name, None)
            if _eager(found) is not found:  # unless other code has replaced it since
                setattr(torch.nn.init, name, _eager(found))
        self.known = {}


def _exchanged(function: Function, ours: Function) -> Function:
    assert _C is not None
    either = _C.either

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return either(ours, function, args, kwargs)

    setattr(call, EAGER, function)
    return call


exchange = Exchange()
