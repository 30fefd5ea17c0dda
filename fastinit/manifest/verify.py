"""Which parameters of a model still have the values that a manifest tells of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.manifest.manifest import Manifest, Written, load
from fastinit.manifest.regenerate import regenerate
from fastinit.tensors.shards import Region, local_region
from fastinit.tensors.walk import named_tensors, walk

_CHUNK = 1 << 24  # elements compared at a time


def verify(
    model: nn.Module, manifest: Manifest | str | Mapping[str, Any]
) -> dict[str, bool | None]:
    """Which parameters and buffers of a model still hold their initial values, bit for bit.

    Args:
        model: on any device; nothing in it is changed. Of a sharded one, the shards of this rank.
        manifest: of `plan.to_json()`, as text or parsed.

    Returns:
        By name: whether it does, or None where no rule gives the values, where the manifest does
        not know the tensor or knows it by another shape or dtype, or where there is no memory.

    Raises:
        ValueError: a DTensor placed otherwise than by Shard and Replicate.
    """
    known = load(manifest)
    answers: dict[str, bool | None] = {}
    with torch.no_grad():
        for name, tensor in named_tensors(walk(model)):
            try:
                entry = known.named(name)
            except KeyError:
                answers[name] = None
                continue
            same_kind = (tuple(tensor.shape), str(tensor.dtype)) == (
                entry.shape,
                f"torch.{entry.dtype}",
            )
            can_tell = same_kind and entry.fills and tensor.device.type != "meta"
            answers[name] = _holds(local_region(tensor), entry) if can_tell else None
    return answers


def _holds(region: Region, entry: Written) -> bool:
    """Whether a region has the bits of its entry, compared in slabs along the first dimension."""
    whole, local = Manifest((entry,)), region.local
    block = [slice(i, i + n) for i, n in zip(region.first, local.shape, strict=True)]
    if not block:
        return _equal_bits(local, regenerate(whole, entry.name, device=local.device))
    first, last = block[0].start, block[0].stop
    height = max(1, _CHUNK // max(1, math.prod(local.shape[1:])))
    for low in range(first, last, height):
        slab = (slice(low, min(low + height, last)), *block[1:])
        expected = regenerate(whole, entry.name, slab, device=local.device)
        if not _equal_bits(local[low - first : low - first + height], expected):
            return False
    return True


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.detach().contiguous().view(integer), other.contiguous().view(integer))
