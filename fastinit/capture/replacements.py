"""The functions that replace those of `torch.nn.init` while a plan is open."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple, TypeVar

import torch

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
        if by_fans and is_torchs:
            _BY_CODE[code] = replacement
        return ours

    return register


def replacement_of(func: Function) -> Function | None:
    """Return the replacement of a function of `torch.nn.init` that a mode sees.

    The function may be another library's, put in the place of torch's: torch's own looks itself up
    by name, and so shows modes whatever is there.
    """
    name = getattr(func, "__name__", "")
    if name not in _BY_NAME or func is not getattr(torch.nn.init, name, None):
        return None
    return _BY_NAME[name].ours


def replacement_by_code(code: CodeType) -> Replacement | None:
    """Return the replacement of the function with this code, however it was imported."""
    return _BY_CODE.get(code)
