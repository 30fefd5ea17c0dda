"""Moves and casts that take along what waits.

`tensor.half()` gives memory that waits for a cast of the tensor's. If nobody has the tensor any
more when that is executed, as after `module.half()`, the new memory is filled in its place, with
values rounded as the cast would round them; otherwise the tensor is filled and cast.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import Parameter, is_lazy

from fastinit.kernels.distributions import can_round
from fastinit.kernels.supported import is_supported
from fastinit.plan.plan import Plan
from fastinit.plan.records import Cast, Copy, Fill, onto
from fastinit.tensors.storage import covers_storage, storage_key


def is_carriable(tensor: Tensor) -> bool:
    """Whether a tensor is ordinary memory that would be moved and cast to such."""
    if is_lazy(tensor) or not (type(tensor) is Tensor or isinstance(tensor, Parameter)):
        return False
    return is_supported(tensor, on_meta=True) and not torch.is_inference_mode_enabled()


def carried(plan: Plan, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """The tensor moved or cast, where no values are needed for it; else None.

    `plan` keeps an account.
    """
    new = _cast(plan, tensor, device, dtype)
    account = plan.account
    if new is not None or account is None or not is_carriable(tensor):
        return new
    if account.has_no_values(tensor):  # then there are none to compute
        new = torch.empty_like(tensor, device=device, dtype=dtype)
        account.allocated(new)
    return new


def _cast(plan: Plan, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    if not (is_carriable(tensor) and plan.executor.serves(tensor)):
        return None
    if device.type == "meta":
        return torch.empty_like(tensor, device=device, dtype=dtype)
    storage = storage_key(tensor)
    if not (can_round(tensor.dtype, dtype) and _is_whole(plan, storage, tensor)):
        return None
    new = torch.empty_like(tensor, device=device, dtype=dtype)
    if not plan.executor.serves(new) or new.stride() != tensor.stride():
        return None
    plan.pending.add(storage_key(new), Cast(new.detach(), tensor.detach()))
    return new


def _is_whole(plan: Plan, storage: int, tensor: Tensor) -> bool:
    """Whether what is pending alone says what the tensor, all of its memory, will hold."""
    pending = plan.pending.of(storage)
    return (
        bool(pending)
        and Copy not in {type(record) for record in pending}
        and {record.tensor.dtype for record in pending} == {tensor.dtype}
        and covers_storage(pending[0].tensor)
        and covers_storage(tensor)
    )


def moved(plan: Plan, tensor: Tensor, device: torch.device) -> torch.UntypedStorage:
    """Other memory, on a device, in place of the tensor's.

    Its values come along, or, if all of them wait for fills, these alone. `plan` keeps an account.
    """
    old = storage_key(tensor)
    storage = tensor.untyped_storage()
    plan.settle(old)
    pending = plan.pending.of(old)
    fills = [record for record in pending if type(record) is Fill]
    is_whole = any(covers_storage(fill.tensor) for fill in fills)
    if is_whole and len(fills) == len(pending) and not plan.pending.awaiting(old):
        flat = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device)
        storage = flat.untyped_storage()
        plan.pending.pop(old)
        waiting = [onto(fill, storage, fill.tensor.dtype) for fill in fills]
        plan.pending.put(storage_key(flat), waiting)
    else:
        plan.flush([old])
        flat = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        flat = flat.to(device)
        storage = flat.untyped_storage()
    if plan.account is not None:
        plan.account.moved(old, flat)
    plan.ledger.moved(old, storage)
    return storage


def drop(plan: Plan, storages: Iterable[int]) -> None:
    """Only keep account of what is pending for this memory, unless other memory waits for that:
    nobody wants its values here."""
    for storage in storages:
        if not plan.pending.awaiting(storage):
            for record in plan.pending.pop(storage):
                if type(record) is Fill:
                    plan.ledger.draw(storage, record, plan.seed_of(record))
