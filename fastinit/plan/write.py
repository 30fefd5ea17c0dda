"""`write`, the one way to a fill: into the open plan, or to the kernels at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastinit.kernels import table
from fastinit.kernels.cuda import Place, place_of
from fastinit.kernels.distributions import CONSTANT, DISTRIBUTIONS, Parameters, valid_parameters
from fastinit.kernels.native import _C, is_native
from fastinit.kernels.streams import stream_of
from fastinit.kernels.supported import is_supported, mark_written
from fastinit.plan import ranks, seeds
from fastinit.plan.account import Account
from fastinit.plan.current import current
from fastinit.plan.plan import Plan
from fastinit.plan.records import Cast, Copy, FanRule, Fill
from fastinit.tensors import torch_private
from fastinit.tensors.boxes import own_box
from fastinit.tensors.parts import parts
from fastinit.tensors.shards import is_dtensor, require_own
from fastinit.tensors.storage import storage_key
from fastinit.tensors.torch_private import unwatched

_SINGLE = stream_of("#0")  # a tensor filled on its own has no name


def _write(
    tensor: Tensor,
    kind: int,
    parameters: tuple[Any, ...],
    generator: torch.Generator | None = None,
    fan_rule: FanRule | None = None,
) -> bool:
    if not isinstance(tensor, Tensor):
        return False  # which torch's call refuses
    plan = current()
    with unwatched():
        require_own(tensor)
    if torch_private.is_traced():  # what traces would not see ours
        if plan is not None and plan.recorder is not None:
            with torch_private.untraced(), unwatched():
                plan.finish()
                for part in parts(tensor) or ():
                    plan.computed(part)
        return False
    if plan is None:
        if is_dtensor(tensor) and is_native():
            return _fill_shard(tensor, kind, parameters, generator, fan_rule)
        if not (is_native() and is_supported(tensor)):
            return False
        valid = valid_parameters(tensor.dtype, kind, parameters)
        if valid is not None and tensor.numel() > 0:
            seed = 0 if kind == CONSTANT else seeds.draw_seed(generator)
            start, box = own_box(tensor)
            mark_written(tensor)  # first: Ctrl-C may end the fill anywhere
            row = table.row(tensor, kind, valid, seed, _SINGLE, start, box)
            table.execute(place_of(tensor), [row])
        return valid is not None
    if not (plan.deferring and is_native()):
        return False
    if any(isinstance(parameter, Tensor) for parameter in parameters):
        plan.execute_first(parameters)
    with unwatched():
        return _record(plan, tensor, kind, parameters, generator, fan_rule)


def _record(
    plan: Plan,
    tensor: Tensor,
    kind: int,
    parameters: tuple[Any, ...],
    generator: torch.Generator | None,
    fan_rule: FanRule | None,
) -> bool:
    if is_dtensor(tensor):
        return _record_shard(plan, tensor, kind, parameters, generator, fan_rule)
    if not plan.executor.serves(tensor):
        plan.keep_from_torch(tensor)
        return False
    valid = valid_parameters(tensor.dtype, kind, parameters)
    if valid is None:
        # The call goes to torch. If torch refuses it, that must be before anything is written.
        # (It takes numbers for single elements that it refuses for more.)
        probe = tensor.new_empty(tensor.shape if tensor.numel() == 1 else 0)
        DISTRIBUTIONS[kind].in_torch(probe, *parameters)
        plan.flush([storage_key(tensor)])
        plan.keep_from_torch(tensor)
        plan.computed(tensor)
        return False
    if tensor.numel() > 0:
        own_seed = None if generator is None else seeds.draw_seed(generator)
        _let_wait(plan, tensor, kind, valid, own_seed, fan_rule)
    return True


def _let_wait(
    plan: Plan,
    tensor: Tensor,
    kind: int,
    valid: Parameters,
    own_seed: int | None,
    fan_rule: FanRule | None,
) -> None:
    origin = "" if plan.account is None else plan.pending.origin or _C.origin()  # type: ignore[union-attr]
    plan.record(Fill(tensor, kind, valid, own_seed, place_of(tensor), origin, fan_rule))


def _record_shard(
    plan: Plan,
    tensor: Tensor,
    kind: int,
    parameters: tuple[Any, ...],
    generator: torch.Generator | None,
    fan_rule: FanRule | None,
) -> bool:
    """Record a fill of a DTensor: of what this rank holds, with the values of the whole."""
    target = plan.sharded.lent(tensor)  # while code holds views of it
    if target is None:
        target = plan.sharded.region(tensor).local
    if not plan.executor.serves(target):
        return False
    valid = valid_parameters(tensor.dtype, kind, parameters)
    if valid is None:
        return False
    if tensor.numel() > 0:
        if kind != CONSTANT:
            plan.sharded.require_first(tensor)
        own_seed = None
        if generator is not None:
            mesh = tensor.device_mesh  # type: ignore[attr-defined]
            own_seed = ranks.seed_of_first(seeds.draw_seed(generator), mesh)
        _let_wait(plan, target, kind, valid, own_seed, fan_rule)
        mark_written(tensor)
    return True


def _fill_shard(tensor: Tensor, *given: Any) -> bool:
    """Fill a DTensor that belongs to no plan, in one of its own: the ranks agree on the seed."""
    plan = Plan(deferring=True, account=Account())
    try:
        with unwatched():
            is_done = _record_shard(plan, tensor, *given)
        plan.finish(is_end=True)
    finally:
        plan.close()
    return is_done


write: Callable[..., bool]
"""`write(tensor, kind, parameters, generator=None, fan_rule=None)`: fill natively, now or in the
open plan. The recorder serves ordinary tensors on the CPU itself, and asks `_write` for all others.

Args, by position:
    tensor: the tensor to fill.
    kind, parameters: the distribution, see `kernels/distributions.py`.
    generator: the call's own generator, whose seed takes precedence over the plan's.
    fan_rule: gives the parameters for other shapes, if they depend on fans.

Returns:
    Whether it was filled or recorded. False leaves the call to torch, to carry out or to refuse:
    another device, dtype or layout, parameters out of range, the torch backend.
"""
if _C is None:
    write = _write
else:
    _C.use(Fill, Copy, Cast, Place, _write)
    write = _C.write
