"""Inert stand-ins for the foreign objects in a checkpoint.

Checkpoints are read with torch's `weights_only`, which makes tensors and plain containers, and
refuses all else. Many hold more beside the weights: a Namespace of arguments, a logger's history,
NumPy scalars. Of each class or function that the file names, torch gets an empty class of that
name in its place: nothing of the other is imported or called. What torch takes is the process's:
while such a file is read, a `torch.load` in another thread gets these classes, too, if it meets the
same names.
"""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.serialization import (
    add_safe_globals,
    clear_safe_globals,
    get_safe_globals,
    get_unsafe_globals_in_checkpoint,
)

_lock = threading.Lock()  # what torch holds for safe is the process's


def load(path: str, map_location: Any, mmap: bool) -> Any:
    """Return what a file by `torch.save` holds, foreign objects as stand-ins.

    Raises:
        pickle.UnpicklingError: torch refuses more than unknown classes.
        Exception: what else `torch.load` raises.
    """
    made: dict[str, type] = {name: _plain(name) for name in get_unsafe_globals_in_checkpoint(path)}
    while True:
        try:
            with _lock, _taken([(stand_in, name) for name, stand_in in made.items()]):
                return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        except (pickle.UnpicklingError, TypeError) as error:
            # A subclass of dict or list gets items, which its stand-in has to be told of.
            text = str(error)
            name = next((n for n in made if f"{n.rpartition('.')[2]}'" in text), None)
            kind = _container_in(text)
            if name is None or kind is None or made[name].__doc__ == kind.__name__:
                raise
            made[name] = _container(name, kind)


@contextmanager
def _taken(stand_ins: list[tuple[type, str]]) -> Iterator[None]:
    """Let torch take the classes under these names; what other code adds meanwhile stays."""
    add_safe_globals(stand_ins)  # type: ignore[arg-type]
    try:
        yield
    finally:
        others = [known for known in get_safe_globals() if known not in stand_ins]
        clear_safe_globals()
        add_safe_globals(others)


def _plain(full_name: str) -> type:
    """Return a class that takes any arguments and any state."""
    module, _, name = full_name.rpartition(".")
    return type(
        name,
        (),
        {
            "__module__": module,
            "__init__": lambda self, *args, **kwargs: None,
            "__setstate__": lambda self, state: None,
        },
    )


def _container(full_name: str, kind: type) -> type:
    """Return a class whose instances are plain containers."""
    module, _, name = full_name.rpartition(".")
    own = {"__module__": module, "__doc__": kind.__name__, "__new__": lambda cls, *args: kind()}
    return type(name, (), own)


def _container_in(message: str) -> type | None:
    if "append to lists" in message or "extend lists" in message:
        return list
    if "SETITEM" in message or "item assignment" in message:
        return OrderedDict
    return None
