"""Boxes of a row-major index, against NumPy's slices of a table of that index."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastinit.tensors import boxes

shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@st.composite
def sliced(draw: st.DrawFn) -> tuple[list[int], tuple[range, ...]]:
    """A shape, and a range along each of its dimensions."""
    shape = draw(shapes)
    taken = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        step = draw(st.integers(1, 3))
        length = draw(st.integers(1, (size - 1 - start) // step + 1))
        taken.append(range(start, start + (length - 1) * step + 1, step))
    return shape, tuple(taken)


def index_of(shape: list[int]) -> np.ndarray:
    return np.arange(int(np.prod(shape))).reshape(shape)


def part_of(shape: list[int], taken: tuple[range, ...]) -> np.ndarray:
    return index_of(shape)[np.ix_(*map(list, taken))]


@given(sliced())
def test_ranges_of_a_slice_are_its_own(case: tuple[list[int], tuple[range, ...]]) -> None:
    shape, taken = case
    part = part_of(shape, taken)
    strides = boxes.row_major(shape)
    box = [(len(r), r.step * stride) for r, stride in zip(taken, strides, strict=True)]
    found = boxes.ranges(int(part.flat[0]), box, shape)
    assert found is not None
    assert (part_of(shape, found) == part).all()


def test_what_follows_no_dimension_has_no_ranges() -> None:
    assert boxes.ranges(0, [(3, 4)], (3, 3)) is None  # the diagonal
    assert boxes.ranges(2, [(4, 1)], (3, 3)) is None  # across the end of a row
    assert boxes.ranges(0, [(2, 1), (2, 2)], (4,)) is None  # two steps along one dimension


@given(sliced(), st.data())
def test_clipped(case: tuple[list[int], tuple[range, ...]], data: st.DataObject) -> None:
    _, taken = case
    for r in taken:
        low, count = data.draw(st.integers(0, 8)), data.draw(st.integers(0, 8))
        assert list(boxes.clipped(r, low, count)) == [i for i in r if low <= i < low + count]


def test_parts_that_overlap_are_not_all_though_they_are_as_many() -> None:
    first, second, middle, even = range(2), range(2, 4), range(1, 3), range(0, 4, 2)
    columns = range(3)
    assert boxes.are_all([(first, columns), (second, columns)], (4, 3))
    for parts in ([first, first], [first, middle], [even, second], [even, even]):
        assert not boxes.are_all([(part, columns) for part in parts], (4, 3)), parts


@given(st.data(), shapes)
def test_are_all(data: st.DataObject, shape: list[int]) -> None:
    # A tensor cut along one dimension after another, in blocks or in combs; then perhaps one part
    # lost, or in the place of another.
    parts: list[tuple[range, ...]] = [tuple(range(n) for n in shape)]
    for _ in range(data.draw(st.integers(0, 3))):
        n = data.draw(st.integers(0, len(parts) - 1))
        d = data.draw(st.integers(0, len(shape) - 1))
        whole = parts[n][d]
        if len(whole) < 2:
            continue
        at = data.draw(st.integers(1, len(whole) - 1))
        halves = (whole[::2], whole[1::2]) if data.draw(st.booleans()) else (whole[:at], whole[at:])
        parts[n : n + 1] = [(*parts[n][:d], half, *parts[n][d + 1 :]) for half in halves]
    if data.draw(st.booleans()):
        n = data.draw(st.integers(0, len(parts) - 1))
        parts[n : n + 1] = data.draw(st.sampled_from([[], [parts[0]]]))
    counts = np.zeros(shape, int)
    for part in parts:
        counts[np.ix_(*map(list, part))] += 1
    assert boxes.are_all(parts, shape) == bool((counts == 1).all())
