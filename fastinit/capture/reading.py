"""What a plan does around a call of other code that may read and write tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastinit.capture import arguments
from fastinit.kernels.native import _C
from fastinit.plan.plan import Plan
from fastinit.tensors import torch_private
from fastinit.tensors.torch_private import unwatched

if TYPE_CHECKING:
    from fastinit._C import Recorder

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def execute_first(plan: Plan, value: Any) -> None:
    """Execute everything pending that a call with these arguments could read."""
    recorder = plan.recorder
    if not recorder:
        return
    with torch_private.untraced() if torch_private.is_traced() else nullcontext():
        storages = None if torch_private.is_traced() else recorder.waiting_in(value)
        if storages is None:  # other code may run, or it is not known what a tensor is made of
            plan.finish()
        elif storages:
            plan.flush(storages)


def watched(
    plan: Plan,
    func: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
    call: Callable[..., Any] | None = None,
) -> Any:
    """Call the function, or `call` for it, and tell the plan which tensors it wrote."""
    call = call or func
    if plan.recorder is not None:
        call = partial(_called, plan.recorder, call)
    if plan.account is None and not plan.scope.running:
        return call(*args, **kwargs)
    before = _versions((args, kwargs))
    result = call(*args, **kwargs)
    if not before:
        return result
    with unwatched():
        for tensor, version in before:
            wrote = arguments.has_written(func, tensor, version)
            if wrote and tensor.layout is torch.strided:
                plan.computed(tensor)
    return result


def _called(recorder: Recorder, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return recorder.call(func, args, kwargs)


def _versions(value: Any) -> list[tuple[Tensor, int | None]]:
    if _C is not None:
        return list(_C.versions(value))
    with unwatched():  # subclasses (lazy parameters) may refuse a look
        return [(t, torch_private.version(t)) for t in arguments.tensors(value)]
