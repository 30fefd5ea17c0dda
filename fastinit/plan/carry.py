"""Moves, casts and copies that take pending records along.

`tensor.half()` returns memory with a pending cast from the tensor's. If no code holds the tensor
any more when the cast is executed, as after `module.half()`, the fills go to the new memory, with
values rounded as the cast would round them; otherwise the tensor is filled and then cast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.parameter import Parameter, is_lazy

from fastinit.kernels.supported import is_supported, mark_written
from fastinit.plan.casts import adopt_fills
from fastinit.plan.plan import Plan
from fastinit.plan.records import Cast, Copy, Fill, onto
from fastinit.tensors.storage import covers_storage, storage_key
from fastinit.tensors.torch_private import eager_set


def is_carriable(tensor: Tensor) -> bool:
    """Whether a tensor is ordinary memory, and so would be the result of a move or cast."""
    if is_lazy(tensor) or not (type(tensor) is Tensor or isinstance(tensor, Parameter)):
        return False
    return is_supported(tensor, on_meta=True) and not torch.is_inference_mode_enabled()


def carried(
    plan: Plan,
    tensor: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor | None:
    """Return the tensor moved or cast, if that needs no values yet; else None.

    `plan` keeps an account.
    """
    new = _cast(plan, tensor, device, dtype, memory_format)
    account = plan.account
    if new is not None or account is None or not is_carriable(tensor):
        return new
    if plan.pending.has_no_values(tensor):  # so there is nothing to copy
        new = torch.empty_like(tensor, device=device, dtype=dtype, memory_format=memory_format)
        plan.pending.allocated(new)
    return new


def _cast(
    plan: Plan,
    tensor: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> Tensor | None:
    if not (is_carriable(tensor) and plan.executor.serves(tensor)):
        return None
    if device.type == "meta":
        return torch.empty_like(tensor, device=device, dtype=dtype)
    storage = storage_key(tensor)
    if not _is_whole(plan, storage, tensor):
        return None
    new = torch.empty_like(tensor, device=device, dtype=dtype, memory_format=memory_format)
    is_same_format = memory_format is torch.preserve_format
    if not plan.executor.serves(new) or (is_same_format and new.stride() != tensor.stride()):
        return None
    plan.pending.add(Cast(new.detach(), tensor.detach()))
    return new


def copied(plan: Plan, target: Tensor, source: Tensor) -> bool:
    """Let a copy to all of a tensor wait for what is pending for the source; return whether it
    does. Otherwise nothing has happened."""
    if plan.account is None or not (is_carriable(source) and is_carriable(target)):
        return False
    storage, key = storage_key(source), storage_key(target)
    may_wait = (
        storage != key
        and plan.executor.serves(source)
        and plan.executor.serves(target)
        and covers_storage(target)
        and _is_whole(plan, storage, source)
        and plan.pending.may_wait(target)
    )
    if may_wait:
        plan.overwrite(target)
        mark_written(target)
        plan.pending.add(Cast(target.detach(), source.detach()))
    return may_wait


def _is_whole(plan: Plan, storage: int, tensor: Tensor) -> bool:
    """Whether pending fills and casts alone determine the tensor, which is all of its memory."""
    pending = plan.pending.of(storage)
    return (
        bool(pending)
        and Copy not in {type(record) for record in pending}
        and {record.tensor.dtype for record in pending} == {tensor.dtype}
        and covers_storage(pending[0].tensor)
        and covers_storage(tensor)
    )


def moved(plan: Plan, tensors: Sequence[Tensor], device: torch.device) -> torch.UntypedStorage:
    """Return a storage on a device that takes the place of the one that these tensors share.

    If fills that wait will write all of it, they move there; otherwise the values are copied, as
    where code holds other tensors of this memory, which stays theirs.
    """
    old = storage_key(tensors[0])
    adopt_fills(plan.pending, old)
    is_alone = plan.pending.is_alone(tensors)  # before there are references of our own
    storage = tensors[0].untyped_storage()
    before = storage.data_ptr()
    pending = plan.pending.of(old)
    fills = [record for record in pending if type(record) is Fill]
    is_whole = any(covers_storage(fill.tensor) for fill in fills)
    is_all = len(fills) == len(pending) and not plan.pending.awaiting(old)
    if is_alone and is_whole and is_all:
        flat = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device)
        storage = flat.untyped_storage()
        plan.pending.pop(old)
        waiting = [onto(fill, storage, fill.tensor.dtype) for fill in fills]
        plan.pending.put(storage_key(flat), waiting)
    else:
        plan.flush([old])
        flat = torch.empty(0, dtype=torch.uint8, device=storage.device)
        eager_set(flat, storage)
        flat = flat.to(device)
        storage = flat.untyped_storage()
    plan.pending.moved(old, flat, storage.data_ptr() - before)
    return storage


def drop(plan: Plan, memory: Iterable[Sequence[Tensor]]) -> None:
    """Drop what is pending for memory whose values nobody needs, keeping it in the account only.

    Memory that a pending cast reads from, or code by other tensors than these, keeps its records.

    Args:
        memory: for each storage the tensors of it that go.
    """
    for tensors in memory:
        storage = storage_key(tensors[0])
        if plan.pending.is_alone(tensors) and not plan.pending.awaiting(storage):
            plan.pending.book([storage])
