"""Inert stand-ins for the foreign objects in a checkpoint.

Checkpoints are read with torch's `weights_only`, which makes tensors and plain containers, and
refuses all else. Many hold more beside the weights: a Namespace of arguments, a logger's history,
NumPy scalars. Of each class or function that the file names, torch gets an empty class of that
name in its place: nothing of the other is imported or called.
"""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

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
            with _lock, safe_globals([(stand_in, name) for name, stand_in in made.items()]):
                return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        except (pickle.UnpicklingError, TypeError) as error:
            # A subclass of dict or list gets items, which its stand-in has to be told of.
            text = str(error)
            name = next((n for n in made if f"{n.rpartition('.')[2]}'" in text), None)
            kind = _container_in(text)
            if name is None or kind is None or made[name].__doc__ == kind.__name__:
                raise
            made[name] = _container(name, kind)


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
