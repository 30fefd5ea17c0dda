"""What must not enter a value: threads, splits, order, grouping, alignment, strides, boxes, other
fills at once."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from filling import CODES, WORDS, Guarded, Rule, bits, fill, filled, same, segment
from hypothesis import given
from hypothesis import strategies as st

from fastinit import _C

RULES = [
    Rule("constant", (0.7,)),
    Rule("uniform", (-0.5, 2.0)),
    Rule("normal", (0.1, 1.5)),
    Rule("trunc_normal", (0.0, 1.0, -1.0, 2.5)),
]
LARGE = 3_000_000  # elements: well past what one thread is given

rules = st.sampled_from(RULES)
u64 = st.integers(0, 2**64 - 1)
starts = st.integers(0, 2**62)


# --- threads, splits, order -----------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_any_number_of_threads_gives_the_same(isa: str, dtype: torch.dtype, rule: Rule) -> None:
    n = LARGE if isa == _C.default_isa() else LARGE // 3
    one = filled(n, dtype, rule, 1, 2, 3, threads=1, isa=isa)
    for threads in (2, 3, 16):
        assert same(filled(n, dtype, rule, 1, 2, 3, threads=threads, isa=isa), one), threads


@given(rule=rules, start=starts, n=st.integers(0, 3000), data=st.data())
def test_a_fill_may_be_split_anywhere(
    isa: str, dtype: torch.dtype, rule: Rule, start: int, n: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, n))
    whole = filled(n, dtype, rule, 8, 9, start, isa=isa)
    parts = [filled(k, dtype, rule, 8, 9, start, isa=isa)]
    parts.append(filled(n - k, dtype, rule, 8, 9, start + k, isa=isa))
    assert same(torch.cat(parts), whole)


def test_a_large_fill_may_be_split_across_threads(isa: str, dtype: torch.dtype) -> None:
    rule = Rule("normal", (0.0, 1.0))
    whole = filled(LARGE, dtype, rule, 4, 5, isa=isa)
    pieces = torch.empty_like(whole)
    cuts = [0, 1, 4098, 999_999, 2_000_003, LARGE]
    table = [segment(pieces[low:high], rule, 4, 5, low) for low, high in itertools.pairwise(cuts)]
    fill(table, 3, isa)
    assert same(pieces, whole)


def _mixed_table(count: int, seed: int, longest: int) -> list[tuple[Guarded, tuple[Any, ...]]]:
    """`count` segments of random kind, dtype, length, seed, stream, start and alignment."""
    draw = random.Random(seed)
    table = []
    for _ in range(count):
        dtype = draw.choice(list(CODES))
        rule = WORDS if dtype == torch.int32 else draw.choice(RULES)
        n = draw.choice([0, 1, 3, draw.randrange(100), draw.randrange(longest)])
        region = Guarded(n, dtype, shift=draw.randrange(20))
        place = (draw.getrandbits(64), draw.getrandbits(64), draw.getrandbits(62))
        table.append((region, segment(region.tensor, rule, *place)))
    return table


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_mixed_table_is_its_segments_one_by_one(isa: str, threads: int) -> None:
    alone = _mixed_table(400, 17, longest=20_000)
    for _, row in alone:
        fill([row], 1, "scalar")
    group = _mixed_table(400, 17, longest=20_000)
    fill([row for _, row in group], threads, isa)
    shuffled = _mixed_table(400, 17, longest=20_000)
    order = [row for _, row in shuffled]
    random.Random(1).shuffle(order)
    fill(tuple(order), threads, isa)
    for (expected, _), (got, _), (other, _) in zip(alone, group, shuffled, strict=True):
        assert same(expected.tensor, got.tensor)
        assert same(expected.tensor, other.tensor)
        assert expected.intact()
        assert got.intact()
        assert other.intact()


def test_an_empty_table_and_empty_regions_are_fine(isa: str, dtype: torch.dtype) -> None:
    fill([], 1, isa)
    empty = (_C.NORMAL, CODES[dtype], 0, 0, 0, 0, 0, 0.0, 1.0, 0.0, 0.0)
    neighbour = Guarded(5, dtype)
    no_rows = (*empty[:6], ((3, 5, 5), (0, 1, 1)), *empty[7:])
    fill([empty, segment(neighbour.tensor, RULES[1]), no_rows], 1, isa)
    assert same(neighbour.tensor, filled(5, dtype, RULES[1]))


# --- memory ---------------------------------------------------------------------------------------


@given(shift=st.integers(0, 64), n=st.integers(0, 400), rule=rules, start=starts)
def test_any_alignment_and_nothing_outside(
    isa: str, dtype: torch.dtype, shift: int, n: int, rule: Rule, start: int
) -> None:
    region = Guarded(n, dtype, shift)
    fill([segment(region.tensor, rule, 1, 2, start)], 1, isa)
    assert same(region.tensor, filled(n, dtype, rule, 1, 2, start, isa=isa))
    assert region.intact()


def test_the_guard_sees_a_stray_write(dtype: torch.dtype) -> None:
    for where in (-1, 40, Guarded.MARGIN - 1):
        region = Guarded(40, dtype)
        around = region.tensor.as_strided((1,), (1,), region.tensor.storage_offset() + where)
        around.zero_()
        assert not region.intact()


@st.composite
def boxes(draw: st.DrawFn) -> tuple[list[int], list[slice], list[int]]:
    """The shape of a parameter, the slices of a region of it, and the order of its axes in
    memory."""
    rank = draw(st.integers(1, 5))
    shape = draw(st.lists(st.integers(1, 9), min_size=rank, max_size=rank))
    window = []
    for size in shape:
        low = draw(st.integers(0, size - 1))
        high = draw(st.integers(low + 1, size))
        window.append(slice(low, high, draw(st.sampled_from([1, 1, 2, 3]))))
    return shape, window, draw(st.permutations(range(rank)))


def _box(index: torch.Tensor, memory: torch.Tensor) -> tuple[tuple[int, int, int], ...]:
    """The box of a view: index strides from a view of a contiguous tensor, memory strides from
    the same view of the tensor that is written."""
    return tuple(zip(index.shape, memory.stride(), index.stride(), strict=True))


@given(case=boxes(), rule=rules, offset=st.integers(0, 2**40))
def test_a_box_holds_what_the_whole_holds(
    isa: str,
    dtype: torch.dtype,
    case: tuple[list[int], list[slice], list[int]],
    rule: Rule,
    offset: int,
) -> None:
    shape, window, order = case
    n = int(np.prod(shape))
    whole = filled(n, dtype, rule, 3, 4, offset, isa=isa).view(shape)
    logical = whole[tuple(window)]
    start = offset + logical.storage_offset()

    # A tensor of the same shape with its axes in another order in memory, its window written.
    region = Guarded(n, dtype)
    inverse = [order.index(axis) for axis in range(len(shape))]
    permuted = region.tensor.view([shape[axis] for axis in order]).permute(inverse)
    target = permuted[tuple(window)]
    fill([segment(target, rule, 3, 4, start, _box(logical, target))], 1, isa)
    assert same(target.contiguous(), logical.contiguous())
    _, offsets = oracle.box_indices(start, _box(logical, target))
    assert region.intact(offsets + target.storage_offset() - region.tensor.storage_offset())


@given(case=boxes(), seed=u64, stream=u64, offset=st.integers(0, 2**62))
def test_box_words_equal_the_oracle(
    isa: str,
    case: tuple[list[int], list[slice], list[int]],
    seed: int,
    stream: int,
    offset: int,
) -> None:
    shape, window, _ = case
    logical = torch.empty(shape)[tuple(window)]
    start = offset + logical.storage_offset()
    target = torch.empty(logical.shape, dtype=torch.int32)
    fill([segment(target, WORDS, seed, stream, start, _box(logical, target))], 1, isa)
    index, _ = oracle.box_indices(start, _box(logical, target))
    assert np.array_equal(bits(target).view(np.uint32).ravel(), oracle.words(seed, stream, index))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_large_boxes(isa: str, dtype: torch.dtype, rule: Rule, threads: int) -> None:
    shape = (33, 50, 17, 26)
    whole = filled(int(np.prod(shape)), dtype, rule, 6, 7, isa=isa).view(shape)
    channels_last = torch.empty(shape, dtype=dtype).to(memory_format=torch.channels_last)
    transposed = torch.empty(shape[::-1], dtype=dtype).permute(3, 2, 1, 0)
    for target in (channels_last, transposed):
        row = segment(target, rule, 6, 7, 0, _box(whole, target))
        fill([row], threads, isa)
        assert same(target, whole)
    shards = []
    table = []
    for columns in whole.view(33 * 50, -1).split(101, dim=1):
        shards.append(torch.empty(columns.shape, dtype=dtype))
        box = _box(columns, shards[-1])
        table.append(segment(shards[-1], rule, 6, 7, columns.storage_offset(), box))
    fill(table, threads, isa)
    assert same(torch.cat(shards, dim=1).view(shape), whole)


def test_one_long_axis_in_a_box_is_shared_by_threads(isa: str, dtype: torch.dtype) -> None:
    rule = Rule("normal", (0.0, 1.0))
    whole = filled(2 * LARGE // 3, dtype, rule, 1, 1, isa=isa)
    spread = torch.zeros(2 * len(whole), dtype=dtype)
    fill([segment(spread, rule, 1, 1, 0, ((len(whole), 2, 1),))], 3, isa)
    assert same(spread[::2].contiguous(), whole)
    assert not spread[1::2].any()


def test_negative_strides_are_right_or_refused(isa: str, dtype: torch.dtype) -> None:
    rule = Rule("normal", (0.0, 1.0))
    whole = filled(50, dtype, rule, 1, 1, 10, isa=isa)
    for memory_stride, index_stride in ((-1, 1), (1, -1)):
        region = Guarded(50, dtype)
        first = region.tensor[-1:] if memory_stride < 0 else region.tensor
        start = 10 if index_stride > 0 else 59
        row = segment(first, rule, 1, 1, start, ((50, memory_stride, index_stride),))
        try:
            fill([row], 1, isa)
        except ValueError:
            assert region.intact(np.empty(0, dtype=np.int64))
        else:
            assert same(region.tensor, whole.flip(0))
            assert region.intact()


def test_absurdly_many_threads_are_fine(isa: str) -> None:
    rule = Rule("normal", (0.0, 1.0))
    tensor = torch.empty(1000)
    fill([segment(tensor, rule, 1, 2)], 2**31 - 1, isa)
    assert same(tensor, filled(1000, torch.float32, rule, 1, 2))
