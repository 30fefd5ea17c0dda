"""The function that a command line names (`package.module:function`, `file.py:function`), and the
model that it makes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from fastinit.capture.fused import fused
from fastinit.manifest.manifest import Manifest
from fastinit.models.build import build
from fastinit.warning import InitWarning, NotInitializedWarning


def factory(text: str) -> Callable[[], nn.Module]:
    """Return the function that makes a model.

    Args:
        text: a module or the path of a file, a colon, and the name of a function or class in it
            that needs no arguments; with dots for what is inside of something.

    Raises:
        ValueError: no colon; it names a model in place of a function, or nothing that is called.
        ModuleNotFoundError, FileNotFoundError: there is no such module or file.
        AttributeError: the module has no such name.
    """
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise ValueError(
            f"{text!r} names no function: write package.module:function, or file.py:function"
        )
    found: Any = _module(where)
    for step in name.split("."):
        if not hasattr(found, step):
            close = get_close_matches(step, dir(found), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise AttributeError(f"{where} has no {step!r}{hint}")
        found = getattr(found, step)
    if isinstance(found, nn.Module):
        raise ValueError(
            f"{text!r} is a {type(found).__name__} that exists; name a function that makes it"
        )
    if not callable(found):
        raise ValueError(f"{text!r} is a {type(found).__name__}, and no function")
    return found  # type: ignore[no-any-return]


def built(
    make: Callable[[], nn.Module],
    seed: int,
    device: str = "cpu",
    init_weights: bool | None = None,
) -> tuple[nn.Module, Manifest]:
    """Return a model that `build` makes, and the manifest of its plan; an `init_weights` that its
    constructor leaves to the caller is run, unless `init_weights` is False. What `build` would warn
    of is in the manifest."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with fused(seed) as plan:
            model = build(make, device=device, strict=False, init_weights=init_weights)
    if init_weights is None and any(w.category is NotInitializedWarning for w in caught):
        return built(make, seed, device, True)
    for each in caught:
        if not issubclass(each.category, InitWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return model, plan.manifest()


def _module(where: str) -> Any:
    if not where.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")  # as for `python -m`
        return importlib.import_module(where)
    path = Path(where)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {where!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent))  # for what it imports
    spec.loader.exec_module(module)
    return module
