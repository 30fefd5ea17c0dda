"""Calls of other code, which may write tensors: the plan is told which it wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastinit.capture import arguments
from fastinit.kernels.native import _C
from fastinit.plan.plan import Plan
from fastinit.tensors import torch_private
from fastinit.tensors.torch_private import unwatched

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def watched(
    plan: Plan,
    func: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
    call: Callable[..., Any] | None = None,
) -> Any:
    """Call the function, or `call` for it, and tell the plan which tensors it wrote."""
    run = call or func
    is_told = plan.account is not None or bool(plan.scope.running)
    before = _versions((args, kwargs)) if is_told else ()
    recorder = plan.recorder
    result = run(*args, **kwargs) if recorder is None else recorder.call(run, args, kwargs)
    if not before:
        return result
    with unwatched():
        for tensor, version in before:
            wrote = arguments.has_written(func, args, kwargs, tensor, version)
            if wrote and tensor.layout is torch.strided:
                plan.computed(tensor)
    return result


def _versions(value: Any) -> list[tuple[Tensor, int | None]]:
    if _C is not None:
        return list(_C.versions(value))
    with unwatched():  # subclasses (lazy parameters) may refuse a look
        return [(t, torch_private.version(t)) for t in arguments.tensors(value)]
