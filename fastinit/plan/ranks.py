"""The ranks of a distributed run agree on a plan's seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LOW = (1 << 63) - 1


def shared_seed(seed: int, mesh: Any, group: Any = None) -> int:
    """Return the seed of the first rank of a group, by default of all ranks.

    Every rank of the group has to call this. `mesh` tells the device of what is sent.
    """
    sent = [seed]
    torch.distributed.broadcast_object_list(sent, group=group, group_src=0, device=_device(mesh))
    return sent[0]


def seed_of_first(seed: int, mesh: Any) -> int:
    """Return the seed of the first rank of a mesh. Every rank of it has to call this."""
    if not is_member(mesh):
        return seed
    words = torch.tensor([seed & 0xFFFFFFFF, seed >> 32], dtype=torch.int64, device=_device(mesh))
    for dim in range(mesh.ndim):
        if is_distributed() and mesh.size(dim) > 1:
            torch.distributed.broadcast(words, group=mesh.get_group(dim), group_src=0)
    low, high = words.tolist()
    return int(low | high << 32)


def require_one_seed(seed: int, mesh: Any) -> None:
    """Raise, on all ranks of a mesh, if the seeds that were given to them differ.

    Raises:
        ValueError: they differ.
    """
    # Both ends of a range, as one maximum: all ranks learn both.
    above, below = largest([seed - _LOW - 1, _LOW - seed], mesh)
    last, first = above + _LOW + 1, _LOW - below
    if first != last:
        raise ValueError(
            f"seed={seed} on this rank, and others from {first} to {last} on the ranks that hold "
            "other shards of the same parameters; give all ranks one seed"
        )


def largest(numbers: list[int], mesh: Any) -> list[int]:
    """Return, for each of some numbers of 64 bits, the largest one of all ranks of a mesh; outside
    of it, of this rank."""
    if not is_member(mesh):
        return numbers
    found = torch.tensor(numbers, dtype=torch.int64, device=_device(mesh))
    for dim in range(mesh.ndim):
        if mesh.size(dim) > 1:
            group = mesh.get_group(dim)
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=group)
    return [int(number) for number in found.tolist()]


def _device(mesh: Any) -> torch.device:
    if mesh.device_type == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def is_member(mesh: Any) -> bool:
    """Whether this rank is one of a mesh: others hold nothing, and take no part in its sends."""
    return mesh.get_coordinate() is not None


def is_distributed() -> bool:
    """Whether a distributed run of more than one rank has begun."""
    distributed = torch.distributed
    return bool(
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole of a DTensor in ordinary memory, on each rank of its mesh; zeros outside."""
    if not is_member(tensor.device_mesh):  # type: ignore[attr-defined]
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    whole: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return whole
