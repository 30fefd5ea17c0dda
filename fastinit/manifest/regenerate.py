"""Any part of a tensor again, as it was initialised, from its manifest alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.kernels import fills
from fastinit.kernels.cuda import place_of
from fastinit.manifest.manifest import Drawn, Manifest, Written, load
from fastinit.tensors import boxes
from fastinit.tensors.names import named_tensors, walk
from fastinit.tensors.shards import Region, local_region

_CHUNK = 1 << 24  # elements compared at a time


def rows(out: Tensor, tensor: Written, first: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    """Rows of the kernels' table that fill `out`, of any strides, with the part of a tensor that
    begins at the multi-index `first`, rounded to its dtype. Later rows overwrite earlier ones.

    Raises:
        ValueError: the values are not those of fills, or cannot be had in that dtype.
    """
    if tensor.status != "filled":
        raise ValueError(f"{tensor.name} is {tensor.status}: no rule gives its values")
    first = tuple(first)
    strides = boxes.row_major(tensor.shape)
    recorded = getattr(torch, tensor.dtype)
    if not fills.can_round(recorded, out.dtype):
        raise ValueError(f"{tensor.name} is {recorded}: it cannot be made as {out.dtype}")
    for drawn in tensor.fills if out.dtype == recorded else map(Drawn.cast, tensor.fills):
        target, begin, steps = out, first, strides
        if drawn.box is not None:
            taken = boxes.ranges(drawn.start, drawn.box, tensor.shape)
            if taken is None:
                raise ValueError(f"{tensor.name}: {drawn.box} does not follow its dimensions")
            here = list(map(boxes.clipped, taken, first, out.shape))
            if not all(map(len, here)):
                continue
            target = out[
                tuple(
                    slice(r.start - low, r.stop - low, r.step)
                    for r, low in zip(here, first, strict=True)
                )
            ]
            begin = tuple(r.start for r in here)
            steps = [r.step * stride for r, stride in zip(here, strides, strict=True)]
        if target.numel():
            start = sum(i * stride for i, stride in zip(begin, strides, strict=True))
            box = tuple(zip(target.shape, target.stride(), steps, strict=True))
            yield drawn.row(target, start, box)


def regenerate(
    manifest: Manifest | str | Mapping[str, Any],
    name: str,
    index: Any = ...,
    *,
    device: torch.device | str | int | None = None,
) -> Tensor:
    """A slice of a tensor as it was initialised, from the manifest alone.

    Args:
        manifest: of `plan.to_json()`, as text or parsed.
        name: of the tensor.
        index: an integer, a slice with a positive step, `...`, or a tuple of them.
        device: where; the CPU by default.

    Returns:
        What `tensor[index]` was after initialisation, bit for bit.

    Raises:
        KeyError: the manifest has no such tensor.
        IndexError: the index is of another kind, has too many dimensions, or is out of range.
        ValueError: the tensor's values come from code, not from a rule.
    """
    tensor = load(manifest).named(name)
    ranges, dropped = _ranges(index, tensor.shape)
    # The smallest block without steps around what is asked for.
    first = [r.start for r in ranges]
    shape = [r[-1] - r.start + 1 if len(r) else 0 for r in ranges]
    out = torch.empty(shape, dtype=getattr(torch, tensor.dtype), device=device)
    for row in rows(out, tensor, first):
        fills.execute(place_of(out), [row])
    picked = out[tuple(slice(None, None, r.step) for r in ranges)]
    return picked[tuple(0 if d in dropped else slice(None) for d in range(len(ranges)))]


def _ranges(index: Any, shape: tuple[int, ...]) -> tuple[list[range], set[int]]:
    """What a basic index selects of each dimension, and the dimensions that it drops."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(item, bool) or not _is_basic(item) for item in items):
        raise IndexError(f"{index} is not made of integers, slices and ... alone")
    if items.count(Ellipsis) > 1:
        raise IndexError(f"{index} has more than one ellipsis")
    given = sum(item is not Ellipsis for item in items)
    if given > len(shape):
        raise IndexError(f"{index} has too many dimensions for the shape {shape}")
    at = items.index(Ellipsis) if Ellipsis in items else len(items)
    items[at : at + 1] = [slice(None)] * (len(shape) - given)
    ranges, dropped = [], set()
    for d, (item, size) in enumerate(zip(items, shape, strict=True)):
        if isinstance(item, slice):
            selected = range(*item.indices(size))
            if selected.step < 1:
                raise IndexError(f"the slice {item} has a step that is not positive")
            ranges.append(selected)
        else:
            number = int(item)
            position = number + (size if number < 0 else 0)
            if not 0 <= position < size:
                raise IndexError(f"{item} is out of range for dimension {d} of size {size}")
            ranges.append(range(position, position + 1))
            dropped.add(d)
    return ranges, dropped


def _is_basic(item: Any) -> bool:
    return item is Ellipsis or isinstance(item, (slice, Integral))


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
