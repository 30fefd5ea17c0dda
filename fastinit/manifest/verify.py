"""Verification: which tensors of a model still have the values that their manifest gives."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.manifest.manifest import Manifest, Written
from fastinit.manifest.read import load
from fastinit.manifest.regenerate import regenerate
from fastinit.tensors.shards import Region, local_region
from fastinit.tensors.walk import named_tensors, walk
from fastinit.warning import InitWarning

_CHUNK = 1 << 24  # elements compared at a time, to bound the memory


def verify(
    model: nn.Module, manifest: Manifest | str | Mapping[str, Any], *, prefix: str = ""
) -> dict[str, bool | None]:
    """Tell which parameters and buffers of a model still hold their initial values, bit for bit.

    Args:
        model: a model on any device, not changed; if it is sharded, this rank's shards are checked.
        manifest: the result of `plan.to_json()`, as text or parsed.
        prefix: stands before every name in the manifest, as in `fused`.

    Returns:
        For each name whether the tensor holds them; None if that cannot be told: no fills give its
        values, the manifest lacks it or has another shape or dtype, or it is on meta. If the
        manifest has none of the names, a UserWarning says so.

    Raises:
        TypeError: `model` is no module.
        ValueError: a DTensor with placements other than Shard and Replicate; a manifest of another
            stream version.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"verify: model must be a module, got a {type(model).__name__}; the manifest is the "
            "second argument"
        )
    known = load(manifest)
    found = 0
    answers: dict[str, bool | None] = {}
    with torch.no_grad():
        for name, tensor in named_tensors(walk(model)):
            try:
                entry = known.named(prefix + name)
            except KeyError:
                answers[name] = None
                continue
            found += 1
            same_kind = (tuple(tensor.shape), str(tensor.dtype)) == (
                entry.shape,
                f"torch.{entry.dtype}",
            )
            can_tell = same_kind and entry.fills and tensor.device.type != "meta"
            answers[name] = _holds(local_region(tensor), entry) if can_tell else None
    if answers and not found:
        there = ", ".join(tensor.name for tensor in known.tensors[:3])
        warnings.warn(
            f"verify: the manifest has none of the model's {len(answers)} names: it has "
            f"{there or 'nothing'}, ..., the model {', '.join(list(answers)[:3])}, ...; a plain "
            "fused() numbers tensors, so give it root=model, or build the model in it",
            InitWarning,
            stacklevel=2,
        )
    return answers


def _holds(region: Region, entry: Written) -> bool:
    """Whether a region has the bits that its entry gives, compared in slabs along dimension 0."""
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
