"""Boxes: parts of a tensor that take a range of indices along each of its dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

Ranges = tuple[range, ...]

Box = int | tuple[tuple[int, int, int], ...]
"""Elements that follow each other in memory and in index, or (size, memory stride, index stride) of
each dimension."""


def row_major(shape: Sequence[int]) -> list[int]:
    """Index strides of a shape, row-major."""
    strides = [1] * len(shape)
    for d in range(len(shape) - 1, 0, -1):
        strides[d - 1] = strides[d] * shape[d]
    return strides


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements of memory from a tensor's first to its last."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def is_injective(tensor: Tensor) -> bool:
    """Whether no two elements share memory, as those of an expanded tensor do."""
    extent = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= extent:
                return False
            extent += (size - 1) * stride
    return True


def own_box(tensor: Tensor) -> tuple[int, Box]:
    """(start, box) of a tensor in its own row-major index."""
    if tensor.is_contiguous():
        return 0, tensor.numel()
    shape = tensor.shape
    return 0, tuple(zip(shape, tensor.stride(), row_major(shape), strict=True))


def box_in(view: Tensor, whole: Tensor) -> tuple[int, Box] | None:
    """(start, box) of a view's elements in the row-major index of the whole, which shares its
    storage.

    None if the view is not inside the whole, or a step of it is not a fixed step in that index.
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
    # A permuted whole (channels_last): write the offset and the steps in its mixed radix.
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
    """What a box of (size, step through the row-major index) that begins at `start` takes of each
    dimension; None if it does not follow them, as a diagonal does not."""
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
    """The part of a range within [low, low + count)."""
    skipped = max(0, -(-(low - taken.start) // taken.step))
    return range(taken.start + skipped * taken.step, min(taken.stop, low + count), taken.step)


def are_all(parts: Sequence[Ranges], shape: Sequence[int]) -> bool:
    """Whether parts of a tensor are all of it, none of it twice."""
    if sum(math.prod(map(len, part)) for part in parts) != math.prod(shape):
        return False
    near: list[Ranges] = []  # those whose first ranges the next ones may meet
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
