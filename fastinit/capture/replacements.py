"""Our functions that stand for torch's while a plan is open."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple, TypeVar

import torch

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


class Replacement(NamedTuple):
    """What stands for a function of `torch.nn.init`.

    Attributes:
        ours: takes the same arguments.
        arguments: of torch's function, but for the tensor, which comes first.
    """

    ours: Function
    arguments: tuple[str, ...]


_BY_NAME: dict[str, Replacement] = {}
_BY_CODE: dict[CodeType, Replacement] = {}


def replaces(original: Function) -> Callable[[F], F]:
    """Register the decorated function as what stands for one of `torch.nn.init`."""
    code = original.__code__
    arguments = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]

    def register(ours: F) -> F:
        _BY_NAME[original.__name__] = _BY_CODE[code] = Replacement(ours, arguments)
        return ours

    return register


def replacement_of(func: Function) -> Function | None:
    """What stands for torch's function, or for what others have put in its place, which torch's
    own, looking its name up, then shows to modes."""
    name = getattr(func, "__name__", "")
    if name not in _BY_NAME or func is not getattr(torch.nn.init, name, None):
        return None
    return _BY_NAME[name].ours


def replacement_by_code(code: CodeType) -> Replacement | None:
    """What stands for the function that has this code, however it was imported."""
    return _BY_CODE.get(code)
