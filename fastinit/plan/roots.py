"""Models that were initialised with a given seed: two with the same names have the same values."""

from __future__ import annotations

import threading
import warnings
import weakref
from typing import NamedTuple

from torch import nn

from fastinit.tensors.walk import named_tensors, walk
from fastinit.warning import SameValuesWarning


class _Root(NamedTuple):
    model: weakref.ref[nn.Module]
    prefix: str
    names: int  # their hash


_by_seed: dict[int, list[_Root]] = {}
_lock = threading.Lock()


def warn_of_repetition(
    caller: str, model: nn.Module, seed: int | None, prefix: str, stacklevel: int = 3
) -> None:
    """Warn if another model, still alive, drew from the same streams with the same given seed."""
    if seed is None:
        return
    names = hash(tuple(name for name, _ in named_tensors(walk(model))))
    with _lock:
        alive = [root for root in _by_seed.get(seed, ()) if root.model() is not None]
        same = [r for r in alive if (r.prefix, r.names) == (prefix, names)]
        is_known = any(root.model() is model for root in same)
        if not is_known:
            alive.append(_Root(weakref.ref(model), prefix, names))
        _by_seed[seed] = alive
    if same and not is_known:
        warnings.warn(
            f"{caller}: another model with the names of this {type(model).__name__} was "
            f"initialised with seed={seed}, and has the same values; parts of one whole need a "
            "prefix= each (the stages of a pipeline, the towers of a model)",
            SameValuesWarning,
            stacklevel=stacklevel,
        )
