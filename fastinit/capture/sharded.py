"""Calls of torch with DTensors, inside a plan.

A fill of a DTensor is one of what this rank holds. Code that computes gets whole tensors in
ordinary memory, on loan (`plan/sharded.py`), so that it computes what it would without a mesh:
torch itself draws the same values on every shard of a mesh of CPUs, and loses what is written to
a row of a tensor that is sharded by rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastinit.capture.arguments import tensors
from fastinit.capture.effects import EFFECTS, SHAPES, Effect, Function, named
from fastinit.plan.plan import Plan
from fastinit.plan.sharded import part_of
from fastinit.tensors.parts import parts
from fastinit.tensors.shards import is_dtensor, local_region
from fastinit.tensors.storage import storage_key
from fastinit.tensors.torch_private import local_tensor, unwatched

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Call = Callable[[Function, Args, Kwargs], Any]

_TORCHS = (
    Effect.LOOK,
    Effect.ALLOCATE,
    Effect.MOVE,
    Effect.CLONE,
    Effect.REBIND,
    Effect.ESCAPE,
    Effect.BACKWARD,
)
_OBJECTS = """
    __get__ __set__ __hash__ __len__ __repr__ __format__ __deepcopy__ __reduce_ex__ __setstate__
    module_load requires_grad_ register_hook retain_grad detach detach_
    t_ transpose_ squeeze_ unsqueeze_ swapaxes_ swapdims_ as_strided_
"""
_OF_OBJECTS = frozenset(_OBJECTS.split())
"""Methods that read no value, or that are about the DTensor as an object."""

_NEW = named(Tensor, "new_empty new_empty_strided new_zeros new_ones new_full new_tensor")


def makes_new(func: Function) -> bool:
    """Whether a method takes no more than dtype and device from a tensor."""
    return func in _NEW


def stand_in(tensor: Tensor) -> Tensor:
    """Return an ordinary tensor with the dtype and device of a DTensor's local part."""
    return torch.empty(0, dtype=tensor.dtype, device=local_tensor(tensor).device)


def is_torchs(func: Function) -> bool:
    """Whether torch does with a DTensor what it would do with the whole tensor: it looks at it,
    moves or copies it."""
    if func in SHAPES:
        return False
    return EFFECTS.get(func, Effect.READ) in _TORCHS or getattr(func, "__name__", "") in _OF_OBJECTS


def memory(args: Args, kwargs: Kwargs, is_torchs: bool) -> list[int]:
    """Return the storages that a call uses as they are: those of DTensors if torch gets them."""
    return [
        storage_key(part)
        for tensor in tensors((args, kwargs))
        if is_torchs or not is_dtensor(tensor)
        for part in parts(tensor) or ()
    ]


def on_wholes(plan: Plan, call: Call, func: Function, args: Args, kwargs: Kwargs) -> Any:
    """Make a call with whole tensors in the place of DTensors.

    What it writes to them is written to the shards. A result of new memory is a DTensor: placed as
    the first argument if it has its shape, else whole on every rank. A view is an ordinary one, of
    the whole: code may write by it. No gradient comes back: a backward pass that tries raises.
    """
    owners: dict[int, Tensor] = {}  # by the id of the whole
    wholes: list[Tensor] = []  # held, so that ids stay theirs

    def lent(tensor: Tensor) -> Tensor:
        if not is_dtensor(tensor):
            return tensor
        whole = plan.sharded.lend(tensor)
        if tensor.requires_grad and torch.is_grad_enabled() and not whole.requires_grad:
            whole.requires_grad_().register_hook(_refuse)  # type: ignore[no-untyped-call]
        owners[id(whole)] = tensor
        wholes.append(whole)
        return whole

    with unwatched():
        given, named = _mapped((args, kwargs), lent)
    with plan.sharded.lending():
        result = call(func, given, named)
    with unwatched():
        storages = {storage_key(whole) for whole in wholes}

        def returned(tensor: Tensor) -> Tensor:
            if id(tensor) in owners:
                return owners[id(tensor)]
            if tensor.layout is not torch.strided or storage_key(tensor) in storages:
                return tensor
            if tensor.requires_grad:  # as long as autograd follows, ordinary tensors
                return tensor
            plan.execute_first(tensor)
            return _placed(tensor, owners[id(wholes[0])])

        result = _mapped(result, returned)
        given = named = None
        plan.sharded.settle(keeps_casts=True)
    return result


def locals_of(plan: Plan, effect: Effect, args: Args, kwargs: Kwargs) -> Args | None:
    """Return the arguments of a tail of a DTensor, or of a copy to it, for its part on this rank;
    None if the whole is needed."""
    target, *others = args
    is_graph = torch.is_grad_enabled() and target.requires_grad  # torch raises
    if is_graph or any(is_dtensor(t) and plan.sharded.lent(t) is not None for t in args):
        return None
    region = plan.sharded.region(target)
    if effect is Effect.TAIL:
        has_tensors = any(isinstance(other, Tensor) for other in (*others, *kwargs.values()))
        return None if has_tensors else (region.local, *others)
    source = others[0] if len(others) == 1 else None
    if not isinstance(source, Tensor) or source.shape != target.shape:
        return None
    if not is_dtensor(source):
        if plan.pending.of(storage_key(source)):  # its fills may become the target's
            return None
        return region.local, part_of(source.detach(), region)
    spec = (target.device_mesh, target.placements)
    if (source.device_mesh, source.placements) != spec:  # type: ignore[attr-defined]
        return None
    return region.local, plan.sharded.region(source).local


def _refuse(gradient: Tensor) -> Tensor:
    raise RuntimeError(
        "backward through what was computed from a DTensor inside a plan; compute it outside of "
        "fused or init_weights, or under torch.no_grad()"
    )


def _placed(tensor: Tensor, like: Any) -> Tensor:
    """Return a whole tensor as a DTensor: placed as `like` if it has its shape, else replicated."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    if tensor.shape == like.shape:
        placed: Tensor = torch.empty_like(like, dtype=tensor.dtype, requires_grad=False)
        region = local_region(like)
        if region.local.numel() > 0:
            local_tensor(placed).copy_(part_of(tensor, region))
        return placed
    if tensor.device.type != mesh.device_type:  # shards that are offloaded
        return tensor
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def _mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Return a value with its tensors, in nested lists, tuples and dictionaries too, replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, function) for item in value))
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        items = [_mapped(item, function) for item in value]
        return items if isinstance(value, list) else _as(type(value), items)
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    return value


def _as(kind: type, items: list[Any]) -> Any:
    return tuple(items) if kind is tuple else kind(items)  # a structseq, as `torch.max` returns
