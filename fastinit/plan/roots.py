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
        is_repeated = _add(seed, _Root(weakref.ref(model), prefix, names))
    if is_repeated:
        warnings.warn(
            f"{caller}: another model with the names of this {type(model).__name__} was "
            f"initialised with seed={seed}, and has the same values; parts of one whole need a "
            "prefix= each (the stages of a pipeline, the towers of a model)",
            SameValuesWarning,
            stacklevel=stacklevel,
        )


# Its own function: an interrupt in a loop that stands in a `with` may pass its end by (Python 3.13,
# github.com/python/cpython/issues/130279), and would leave the lock to nobody.
def _add(seed: int, root: _Root) -> bool:
    """Keep a root; return whether another one that is alive has its names."""
    alive = [each for each in _by_seed.get(seed, ()) if each.model() is not None]
    same = [each for each in alive if (each.prefix, each.names) == (root.prefix, root.names)]
    is_known = any(each.model() is root.model() for each in same)
    _by_seed[seed] = alive if is_known else [*alive, root]
    return bool(same) and not is_known
