"""What constructors write by `.data`, which torch does not count: told by their code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

REPLAYED = frozenset(("init_weights", "reset_parameters", "_reset_parameters"))
"""Methods that a replay runs itself."""


@lru_cache(maxsize=1 << 10)
def writes_unseen(kind: Any) -> bool:
    """Whether the constructor of a class, or what it calls and a replay does not, seems to write in
    place by `.data`."""
    constructor = inspect.unwrap(kind.__init__)
    if not inspect.isfunction(constructor) or constructor.__module__.startswith("torch."):
        return False
    replayed = [getattr(kind, name) for name in REPLAYED if hasattr(kind, name)]
    known = set(_reached(kind, [f for f in replayed if inspect.isfunction(f)]))
    return any(_writes_data(f.__code__) for f in _reached(kind, [constructor]) if f not in known)


def _reached(kind: type, functions: list[FunctionType]) -> Iterator[FunctionType]:
    """Yield functions, and those of the class or their modules that they name, at any depth."""
    ahead, seen = list(functions), set(functions)
    while ahead:
        function = ahead.pop()
        yield function
        for name in _names(function.__code__):
            if name in REPLAYED:
                continue
            named = (getattr(kind, name, None), function.__globals__.get(name))
            for found in map(inspect.unwrap, filter(callable, named)):
                if not isinstance(found, FunctionType) or found in seen:
                    continue
                if not found.__module__.startswith("torch."):
                    seen.add(found)
                    ahead.append(found)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> set[str]:
    return {name for one in _codes(code) for name in one.co_names}


def _writes_data(code: CodeType) -> bool:
    def is_in_place(name: Any) -> bool:
        return name.endswith("_") and not name.startswith("_")

    return any(
        "data" in one.co_names and any(map(is_in_place, one.co_names)) for one in _codes(code)
    )
