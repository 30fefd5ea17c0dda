"""The part of a tensor that a rank holds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fastinit.tensors import torch_private
from fastinit.tensors.walk import Modules

if TYPE_CHECKING:
    from torch.distributed.tensor.placement_types import Placement


class Region(NamedTuple):
    """A block of a tensor: its local memory, the multi-index of its first element, and the shape of
    the whole."""

    local: Tensor
    first: tuple[int, ...]
    shape: torch.Size


def dtensor_class() -> Any:
    """Return the class of DTensors; None where there are none."""
    # Importing it takes half a second: where nobody else has, there are no DTensors.
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind if kind is not None and torch.distributed.is_initialized() else None


def is_dtensor(tensor: Any) -> bool:
    """Whether the tensor is a DTensor."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def may_be_flattened() -> bool:
    """Whether there may be flattened parameters of FullyShardedDataParallel."""
    is_known = "torch.distributed.fsdp._flat_param" in sys.modules
    return is_known and torch.distributed.is_initialized()


def require_own(tensor: Tensor, name: str = "") -> None:
    """Raise for a parameter that only stands for one whose values other ranks hold.

    Raises:
        ValueError: a part of FSDP's flattened parameters, or DeepSpeed's placeholder of ZeRO-3.
    """
    who = name or f"a parameter of shape {tuple(tensor.shape)}"
    if getattr(tensor, "_fsdp_flattened", False) or getattr(tensor, "_is_flat_param", False):
        raise ValueError(
            f"{who} is part of a flattened parameter of FullyShardedDataParallel, whose shards "
            "have no shape of their own; initialise the model before it is wrapped (and pass "
            "sync_module_states=True), or use fully_shard"
        )
    if tensor.numel() == 0 and hasattr(tensor, "ds_shape"):
        raise ValueError(
            f"{who} is DeepSpeed's placeholder for a partitioned parameter of shape "
            f"{tuple(tensor.ds_shape)}; initialise the model before deepspeed.initialize, or "
            "within deepspeed.zero.GatheredParameters(..., modifier_rank=0)"
        )


def is_replicated(tensor: Tensor) -> bool:
    """Whether every rank of a DTensor's mesh holds all of it; the answer of all ranks is one."""
    from torch.distributed.tensor.placement_types import Replicate

    placements: tuple[Placement, ...] = tensor.placements  # type: ignore[attr-defined]
    sizes: tuple[int, ...] = tensor.device_mesh.shape  # type: ignore[attr-defined]
    return all(isinstance(p, Replicate) or n == 1 for p, n in zip(placements, sizes, strict=True))


def require_loaded(modules: Modules) -> None:
    """Raise for a module whose parameters accelerate keeps elsewhere between forward passes.

    Raises:
        ValueError: its hook offloads them.
    """
    if "accelerate.hooks" not in sys.modules:
        return
    for prefix, module in modules:
        if _offloads(module.__dict__.get("_hf_hook")):
            raise ValueError(
                f"{prefix[:-1] or type(module).__name__} is offloaded by accelerate, which puts "
                "values that it keeps elsewhere into it before each forward pass; initialise the "
                "model before it is offloaded, or after "
                "accelerate.hooks.remove_hook_from_submodules"
            )


def _offloads(hook: Any) -> bool:
    return getattr(hook, "offload", False) is True or any(
        map(_offloads, getattr(hook, "hooks", ()))
    )


def local_region(tensor: Tensor) -> Region:
    """Return the block that this rank holds: all of an ordinary tensor, the shard of a DTensor.

    Raises:
        ValueError: a placement that is neither Shard nor Replicate, or a shard of unexpected shape.
    """
    if not is_dtensor(tensor):
        return Region(tensor.detach(), (0,) * tensor.dim(), tensor.shape)
    local = torch_private.local_tensor(tensor).detach()
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    here = mesh.get_coordinate()
    if here is None:  # a rank outside the mesh holds nothing
        empty = local.reshape((0,) * tensor.dim()) if tensor.dim() > 0 else local
        return Region(empty, (0,) * tensor.dim(), tensor.shape)
    first, length = bounds(tensor.shape, mesh.shape, here, tensor.placements)  # type: ignore[attr-defined]
    if tuple(local.shape) != length:
        raise ValueError(
            f"a DTensor of shape {tuple(tensor.shape)} placed {tensor.placements} on {mesh} "  # type: ignore[attr-defined]
            f"holds {tuple(local.shape)} here, where {length} was expected"
        )
    return Region(local, first, tensor.shape)


def bounds(
    shape: torch.Size | tuple[int, ...],
    mesh: tuple[int, ...],
    here: list[int] | tuple[int, ...],
    placements: tuple[Placement, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (multi-index of the first element, shape) of the shard at mesh coordinate `here`.

    Each mesh dimension splits the block left by earlier ones into equal chunks, the last ones
    shorter or empty, as `torch.chunk` does. FSDP over tensor parallelism comes first in the mesh
    but splits last: its placements are `_StridedShard`.

    Raises:
        ValueError: a placement that is neither Shard nor Replicate.
    """
    # With the placements that are given, this is imported already.
    from torch.distributed.tensor.placement_types import Replicate, Shard

    first, length = [0] * len(shape), list(shape)
    plain = [n for n, placement in enumerate(placements) if not _is_strided(placement)]
    strided = [n for n, placement in enumerate(placements) if _is_strided(placement)]
    for n in plain + strided[::-1]:
        placement = placements[n]
        if isinstance(placement, Replicate):
            continue
        if not (isinstance(placement, Shard) or _is_strided(placement)):
            raise ValueError(
                f"parameters placed {placement} cannot be initialised: redistribute them to Shard "
                "or Replicate"
            )
        d = placement.dim % len(shape)  # type: ignore[attr-defined]
        chunk = -(-length[d] // mesh[n])
        begin = min(here[n] * chunk, length[d])
        length[d] = min(chunk, length[d] - begin)
        first[d] += begin
    return tuple(first), tuple(length)


def _is_strided(placement: Placement) -> bool:
    kind = torch_private.strided_shard()
    return kind is not None and isinstance(placement, kind)
