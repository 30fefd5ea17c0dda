"""The arguments of `build` and `materialize`, checked before anything is done; and lists of names
for messages."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

_SHOWN = 10


def checked_device(device: Any, caller: str, *, may_be_meta: bool) -> torch.device | None:
    """Return the device that was asked for; None stays None.

    Raises:
        ValueError: there is no such device, or it has no memory where it needs some.
        RuntimeError: CUDA is not there.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{caller}: device must be a device of torch, such as 'cpu' or 'cuda:0', got {device!r}"
        ) from error
    if found.type == "meta" and not may_be_meta:
        raise ValueError(
            f"{caller}: device must have memory, got {device!r}; build(fn, device='meta') makes a "
            "model without"
        )
    if found.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"{caller}: device={device!r}, but this torch, or this machine, has no CUDA; use 'cpu'"
        )
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{caller}: device={device!r}, but there are {torch.cuda.device_count()} GPUs"
        )
    return found


def checked_dtype(dtype: Any) -> torch.dtype | None:
    """Return the default dtype that was asked for; None stays None.

    Raises:
        TypeError: it is no dtype of floating point.
    """
    if dtype is None:
        return None
    if not isinstance(dtype, torch.dtype):
        named = getattr(torch, dtype.removeprefix("torch."), None) if type(dtype) is str else None
        hint = f"; did you mean {named}?" if isinstance(named, torch.dtype) else ""
        raise TypeError(f"build: dtype must be a torch.dtype, got {dtype!r}{hint}")
    if not dtype.is_floating_point:
        raise TypeError(f"build: dtype must be one of floating point, got {dtype}")
    return dtype


def require_function(fn: Any) -> None:
    """Raise if the argument of `build` makes no model.

    Raises:
        TypeError: it is a model that exists, or cannot be called.
    """
    if isinstance(fn, nn.Module):
        name = type(fn).__name__
        raise TypeError(
            f"build: fn must be a function that makes the model, got a {name} that exists; write "
            f"build(lambda: {name}(...)), or initialise it in fused(root=model)"
        )
    if not callable(fn):
        raise TypeError(f"build: fn must be a function that makes the model, got {fn!r}")
    try:
        inspect.signature(fn).bind()
    except TypeError as error:  # of its arguments
        name = getattr(fn, "__name__", repr(fn))
        raise TypeError(
            f"build: fn is called without arguments, and {name} needs some ({error}); write "
            f"build(lambda: {name}(...))"
        ) from error
    except ValueError:  # one that does not tell its signature
        return


def require_module(model: Any) -> None:
    """Raise if the argument of `materialize` is no model.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(model, nn.Module):
        what = "a class or function" if callable(model) else f"a {type(model).__name__}"
        raise TypeError(
            f"materialize: model must be a module, got {what}; build(fn, device='meta') makes one"
        )


def listed(names: Iterable[str]) -> str:
    """Return names for a message: ten of them at most, and how many more there are."""
    all_names: Sequence[str] = list(names)
    rest = len(all_names) - _SHOWN
    shown = ", ".join(all_names[:_SHOWN])
    return f"{shown} and {rest} more" if rest > 0 else shown
