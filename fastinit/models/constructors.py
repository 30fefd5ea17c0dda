"""What constructors do that a replay cannot know and torch does not count: told by their code."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from types import CodeType, FunctionType
from typing import Any

_RESETS = frozenset(("reset_parameters", "_reset_parameters"))


@lru_cache(maxsize=1 << 10)
def writes_unseen(kind: Any, is_root: bool) -> bool:
    """Whether the constructor of a class, or what it calls and a replay does not, seems to write
    what torch does not count. A replay runs the resets of every layer, and the `init_weights` of
    the root."""
    replays = _replays(is_root)
    constructors = _constructors(kind)
    replayed = [getattr(kind, name) for name in replays if hasattr(kind, name)]
    known = set(_reached(kind, [f for f in replayed if inspect.isfunction(f)], replays))
    reached = _reached(kind, constructors, replays)
    return any(_writes_uncounted(function) for function in reached if function not in known)


@lru_cache(maxsize=1 << 10)
def runs_init_weights(kind: Any) -> bool:
    """Whether the constructor of a class seems to call `init_weights`."""
    reached = _reached(kind, _constructors(kind), frozenset())
    return any("init_weights" in _names(function.__code__) for function in reached)


def initialises_unseen(kind: Any) -> bool:
    """Whether the `init_weights` of a class seems to write what torch does not count."""
    own: Any = getattr(kind, "init_weights", None)  # an instance may have its own
    own = inspect.unwrap(own)
    reached = _reached(kind, [own], frozenset()) if inspect.isfunction(own) else ()
    return any(map(_writes_uncounted, reached))


@lru_cache(maxsize=1 << 10)
def passes_arguments(kind: Any, is_root: bool) -> bool:
    """Whether the constructor of a class seems to give arguments to what a replay calls without."""
    replays = _replays(is_root)
    reached = _reached(kind, _constructors(kind), replays)
    return any(_calls(code, replays) for function in reached for code in _codes(function.__code__))


def _replays(is_root: bool) -> frozenset[str]:
    return _RESETS | {"init_weights"} if is_root else _RESETS


def _constructors(kind: Any) -> list[FunctionType]:
    """Return the constructors of a class and of those that it is derived from, but torch's."""
    own = (
        inspect.unwrap(vars(base)["__init__"]) for base in kind.__mro__ if "__init__" in vars(base)
    )
    return [f for f in own if inspect.isfunction(f) and not f.__module__.startswith("torch.")]


def _calls(code: CodeType, names: frozenset[str]) -> bool:
    """Whether code calls a method of one of these names with arguments."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _BETWEEN]
    return any(
        step.opname.startswith("LOAD_")
        and step.argval in names
        and not (then.opname.startswith("CALL") and then.arg == 0)
        for step, then in pairwise(steps)
    )


_BETWEEN = ("PRECALL", "PUSH_NULL", "EXTENDED_ARG", "NOP")


def _reached(
    kind: type, functions: list[FunctionType], left_out: frozenset[str]
) -> Iterator[FunctionType]:
    """Yield functions, and those of the class or their modules that they name, at any depth."""
    ahead, seen = list(functions), set(functions)
    while ahead:
        function = ahead.pop()
        yield function
        for name in _names(function.__code__):
            if name in left_out:
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


def _writes_uncounted(function: FunctionType) -> bool:
    codes = list(_codes(function.__code__))
    return any("data" in code.co_names and _writes_in_place(code) for code in codes) or any(
        _does_nothing_on_meta(function, name) for name in _names(function.__code__)
    )


def _does_nothing_on_meta(function: FunctionType, name: str) -> bool:
    """Whether a name in a function is that of an initialiser that returns at once on meta."""
    named = function.__globals__.get(name)
    if named is None:  # an attribute, as in nn.init.orthogonal_
        return name in _NOTHING_ON_META
    is_known = getattr(named, "__module__", "") in ("torch.nn.init", "fastinit.init")
    return is_known and getattr(named, "__name__", "") in _NOTHING_ON_META


_NOTHING_ON_META = frozenset(("trunc_normal_", "orthogonal_", "sparse_", "dirac_"))
"""In newer versions of torch."""


def _writes_in_place(code: CodeType) -> bool:
    """Whether code calls methods by the names of those that write in place, or gives `out=`, or
    uses such operators, or sets an attribute `data`."""
    if any(name.endswith("_") and not name.startswith("_") for name in code.co_names):
        return True
    if any(isinstance(names, tuple) and "out" in names for names in code.co_consts):
        return True
    for step in dis.get_instructions(code):
        is_operator = step.opname.startswith("INPLACE_") or (
            step.opname == "BINARY_OP" and step.argrepr.endswith("=")
        )
        sets_data = step.opname == "STORE_ATTR" and step.argval == "data"
        if is_operator or sets_data or step.opname == "STORE_SUBSCR":
            return True
    return False
