"""Parts of a tensor that are a range of indices along each of its dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Ranges = tuple[range, ...]


def row_major(shape: Sequence[int]) -> list[int]:
    """Index strides."""
    strides = [1] * len(shape)
    for d in range(len(shape) - 1, 0, -1):
        strides[d - 1] = strides[d] * shape[d]
    return strides


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements of memory from a tensor's first to its last."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


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
