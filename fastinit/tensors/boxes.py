"""Boxes: parts of a tensor that take a range of indices along each of its dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

Ranges = tuple[range, ...]

Box = int | tuple[tuple[int, int, int], ...]
"""A number of elements, contiguous in memory and in index, or (size, memory stride, index stride)
of each dimension, in elements."""


def row_major(shape: Sequence[int]) -> list[int]:
    """Return the row-major strides of a shape."""
    strides = [1] * len(shape)
    for d in range(len(shape) - 1, 0, -1):
        strides[d - 1] = strides[d] * shape[d]
    return strides


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the extent of a tensor in memory, from its first to its last element, in elements."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def is_injective(tensor: Tensor) -> bool:
    """Whether no two elements share memory, as those of an expanded tensor would.

    False also for strides that interleave without sharing memory.
    """
    extent = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= extent:
                return False
            extent += (size - 1) * stride
    return True


def own_box(tensor: Tensor) -> tuple[int, Box]:
    """Return (start, box) of a tensor in its own row-major index."""
    if tensor.is_contiguous():
        return 0, tensor.numel()
    shape = tensor.shape
    return 0, tuple(zip(shape, tensor.stride(), row_major(shape), strict=True))


def box_in(view: Tensor, whole: Tensor) -> tuple[int, Box] | None:
    """Return (start, box) of a view in the row-major index of the whole, which shares its storage.

    None if the view is not inside the whole, or one of its strides is not constant in that index.
    """
    if view.dtype != whole.dtype:
        return None
    if (
        view.shape == whole.shape
        and view.stride() == whole.stride()
        and view.storage_offset() == whole.storage_offset()
    ):
        return own_box(whole)
    offset = int(view.storage_offset() - whole.storage_offset())
    if offset < 0 or offset + span(view.shape, view.stride()) > span(whole.shape, whole.stride()):
        return None
    if whole.is_contiguous():
        return offset, tuple((n, s, s) for n, s in zip(view.shape, view.stride(), strict=True))
    # A permuted whole (channels_last): its strides are a mixed radix for offset and steps.
    dims = sorted(
        zip(whole.stride(), whole.shape, row_major(whole.shape), strict=True), reverse=True
    )

    def digits(distance: int) -> list[int]:
        found = []
        for stride, size, _ in dims:
            found.append(distance // stride if size > 1 else 0)
            distance -= found[-1] * stride
        return found

    def index(of: list[int]) -> int:
        return sum(n * logical for n, (_, _, logical) in zip(of, dims, strict=True))

    last = digits(offset)
    start = index(last)
    box = []
    for size, stride in zip(view.shape, view.stride(), strict=True):
        if size > 1:
            step = digits(stride)
            box.append((size, stride, index(step)))
            last = [at + (size - 1) * n for at, n in zip(last, step, strict=True)]
    fits = all(at < size for at, (_, size, _) in zip(last, dims, strict=True))
    return (start, tuple(box)) if fits else None


def ranges(start: int, box: Iterable[tuple[int, int]], shape: Sequence[int]) -> Ranges | None:
    """Return the range of each dimension that a box takes, which begins at `start`.

    `box` has (size, step in the row-major index) of each of its dimensions. None if it does not
    follow the dimensions of the shape, as a diagonal.
    """
    strides = row_major(shape)
    sizes, steps = [1] * len(shape), [1] * len(shape)
    for size, step in box:
        if size == 1:
            continue
        along = [d for d, stride in enumerate(strides) if step % stride == 0]
        d = min(along, key=lambda d: step // strides[d])
        if sizes[d] != 1:
            return None
        sizes[d], steps[d] = size, step // strides[d]
    found = []
    for size, step, stride, length in zip(sizes, steps, strides, shape, strict=True):
        first, start = divmod(start, stride)
        taken = range(first, first + (size - 1) * step + 1, step)
        if taken[-1] >= length:
            return None
        found.append(taken)
    return tuple(found)


def clipped(taken: range, low: int, count: int) -> range:
    """Return the part of a range within [low, low + count)."""
    skipped = max(0, -(-(low - taken.start) // taken.step))
    return range(taken.start + skipped * taken.step, min(taken.stop, low + count), taken.step)


def within(taken: Ranges, first: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """Return what is taken of the block of this shape that begins at `first`, in its own index."""
    found = []
    for whole, low, size in zip(taken, first, shape, strict=True):
        here = clipped(whole, low, size)
        found.append(slice(here.start - low, here.stop - low, here.step) if here else slice(0, 0))
    return tuple(found)


def are_all(parts: Sequence[Ranges], shape: Sequence[int]) -> bool:
    """Whether the parts cover a tensor without overlap."""
    if sum(math.prod(map(len, part)) for part in parts) != math.prod(shape):
        return False
    near: list[Ranges] = []  # parts whose first range may meet those to come
    for part in sorted(parts, key=lambda part: [r.start for r in part]):
        near = [other for other in near if other[0].stop > part[0].start]
        if any(all(map(_meet, part, other)) for other in near):
            return False
        near.append(part)
    return True


def _meet(one: range, other: range) -> bool:
    if one.step == other.step == 1:
        return max(one.start, other.start) < min(one.stop, other.stop)
    return not set(one).isdisjoint(other)
