"""Torch's own initialisers, called for a DTensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from fastinit.capture.drawing import drawing
from fastinit.capture.effects import Function
from fastinit.capture.fused import fused
from fastinit.capture.sharded import on_wholes
from fastinit.capture.watched import watched
from fastinit.kernels.native import is_native
from fastinit.plan.current import current
from fastinit.tensors.shards import is_dtensor


def wants_whole(tensor: Tensor) -> bool:
    """Whether `on_whole` is for this tensor: a DTensor, in a plan that defers or in none."""
    if not (is_dtensor(tensor) and is_native()):
        return False
    plan = current()
    return plan is None or plan.recorder is not None


def on_whole(
    function: Function,
    tensor: Tensor,
    *args: Any,
    recorded: Callable[[Tensor], bool] | None = None,
    **kwargs: Any,
) -> Any:
    """Call a function that writes a DTensor with the whole tensor in its place.

    Each rank keeps its part. Without an open plan, the call is one of its own. `recorded` may
    record the call as a fill of the whole, which what waits for it gives way to as it does in a
    model that is not sharded: executed, it would have counted as a draw.
    """
    plan = current()
    if plan is None:
        with fused():
            return on_whole(function, tensor, *args, recorded=recorded, **kwargs)
    if recorded is not None:
        plan.sharded.require_first(tensor)

    def call(func: Function, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if recorded is not None and recorded(given[0]):
            return given[0]
        plan.execute_first((given, named))
        return watched(plan, func, given, named, partial(drawing, plan, func))

    return on_wholes(plan, call, function, (tensor, *args), kwargs)
