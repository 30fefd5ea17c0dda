"""Bad tables: a Python exception, and nothing written, not even by the good segments beside the bad
one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from filling import Guarded, Rule, segment

from fastinit import _C

N = 40
TARGET = torch.zeros(4 * N)  # what the bad rows point at
POINTER = TARGET.data_ptr()
GOOD = (_C.NORMAL, _C.FLOAT32, POINTER, 1, 2, 3, N, 0.0, 1.0, 0.0, 0.0)
NAMES = ("kind", "dtype", "pointer", "seed", "stream", "start", "box", "p0", "p1", "p2", "p3")
NAN, INF = math.nan, math.inf


def row(**changes: Any) -> tuple[Any, ...]:
    """The good row with some of its fields replaced."""
    assert set(changes) <= set(NAMES)
    return tuple(changes.get(name, value) for name, value in zip(NAMES, GOOD, strict=True))


def trunc(mean: float, std: float, a: float, b: float, **changes: Any) -> tuple[Any, ...]:
    """A truncated normal with these parameters."""
    return row(kind=_C.TRUNC_NORMAL, p0=mean, p1=std, p2=a, p3=b, **changes)


def uniform(a: float, b: float, **changes: Any) -> tuple[Any, ...]:
    """A uniform with these bounds."""
    return row(kind=_C.UNIFORM, p0=a, p1=b, **changes)


BAD = {
    "null pointer": row(pointer=0),
    "negative pointer": row(pointer=-4),
    "pointer past 64 bits": row(pointer=2**64),
    "pointer of another type": row(pointer="here"),
    "misaligned pointer": row(pointer=POINTER + 2),
    "misaligned 16-bit pointer": row(dtype=_C.BFLOAT16, pointer=POINTER + 1),
    "misaligned 64-bit pointer": row(dtype=_C.FLOAT64, pointer=POINTER + 4),
    "unknown kind": row(kind=99),
    "negative kind": row(kind=-1),
    "kind by name": row(kind="normal"),
    "unknown dtype": row(dtype=99),
    "negative dtype": row(dtype=-1),
    "seed None": row(seed=None),
    "seed negative": row(seed=-1),
    "seed past 64 bits": row(seed=2**64),
    "seed a float": row(seed=1.5),
    "stream negative": row(stream=-1),
    "stream past 64 bits": row(stream=2**64),
    "start negative": row(start=-1),
    "start past 63 bits": row(start=2**63),
    "last index past 63 bits": row(start=2**63 - N // 2),
    "size negative": row(box=-1),
    "size a float": row(box=3.0),
    "size past 63 bits": row(box=2**63),
    "bytes past 64 bits": row(box=2**62),
    "box None": row(box=None),
    "box of ints": row(box=(3, 4)),
    "box of pairs": row(box=((3, 1),)),
    "box of four": row(box=((3, 1, 1, 1),)),
    "box of floats": row(box=((3, 1.0, 1),)),
    "box size negative": row(box=((4, 5, 5), (-2, 1, 1))),
    "nine axes": row(box=((1, 1, 1),) * 8 + ((N, 1, 1),)),
    "box index past 63 bits": row(start=2**62, box=((3, 1, 2**62),)),
    "box index negative": row(start=3, box=((5, 1, -1),)),
    "box size product past 63 bits": row(box=((2**40, 2**40, 2**40), (2**40, 1, 1))),
    "box stride 0": row(box=((4, 0, 1),)),
    "box rows overlap": row(box=((4, 3, 4), (4, 1, 1))),
    "box rows overlap, axes swapped": row(box=((4, 1, 4), (4, 3, 1))),
    "too few fields": GOOD[:-1],
    "too many fields": (*GOOD, 0.0),
    "a row of nothing": (),
    "a row that is no sequence": 7,
    "parameter None": row(p0=None),
    "parameter a string": row(p1="0.02"),
    "mean nan": row(p0=NAN),
    "mean infinite": row(p0=INF),
    "std nan": row(p1=NAN),
    "std infinite": row(p1=INF),
    "std negative": row(p1=-0.5),
    "uniform nan": uniform(NAN, 1.0),
    "uniform infinite": uniform(0.0, INF),
    "uniform minus infinite": uniform(-INF, 0.0),
    "uniform a > b": uniform(1.0, 0.5),
    "trunc std zero": trunc(0.0, 0.0, -1.0, 1.0),
    "trunc std negative": trunc(0.0, -1.0, -1.0, 1.0),
    "trunc std nan": trunc(0.0, NAN, -1.0, 1.0),
    "trunc std infinite": trunc(0.0, INF, -1.0, 1.0),
    "trunc mean nan": trunc(NAN, 1.0, -1.0, 1.0),
    "trunc mean infinite": trunc(INF, 1.0, -1.0, 1.0),
    "trunc a nan": trunc(0.0, 1.0, NAN, 1.0),
    "trunc b nan": trunc(0.0, 1.0, -1.0, NAN),
    "trunc a > b": trunc(0.0, 1.0, 1.0, -1.0),
    "trunc a = b = infinite": trunc(0.0, 1.0, INF, INF),
    "trunc a = b = minus infinite": trunc(0.0, 1.0, -INF, -INF),
    "words as floats": row(kind=_C.WORDS),
    "normal as words": row(dtype=_C.UINT32),
    "uniform as words": uniform(0.0, 1.0, dtype=_C.UINT32),
    "constant as words": row(kind=_C.CONSTANT, dtype=_C.UINT32),
}


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_stops_the_whole_table(name: str, first: bool) -> None:
    region = Guarded(N, torch.float32)
    TARGET.zero_()
    good = segment(region.tensor, Rule("normal", (0.0, 1.0)))
    table = [BAD[name], good] if first else [good, BAD[name]]
    with pytest.raises((ValueError, TypeError)):
        _C.fill(table)
    assert region.intact(written=torch.empty(0, dtype=torch.int64).numpy())
    assert not TARGET.any()


def test_the_good_row_is_good() -> None:
    TARGET.zero_()
    _C.fill([GOOD])
    assert torch.count_nonzero(TARGET) == N


OVERLAPS = {
    "the same region twice": (row(), row(stream=9)),
    "a common last element": (row(), row(pointer=POINTER + 4 * (N - 1))),
    "a region inside another": (row(), row(pointer=POINTER + 16, box=2)),
    "two dtypes": (row(), row(dtype=_C.FLOAT64, pointer=POINTER + 8 * (N // 2 - 1))),
    "a box and a run": (row(box=((4, 10, 10), (3, 1, 1))), row(pointer=POINTER + 80, box=1)),
    "two boxes": (
        row(box=((4, 10, 10), (3, 1, 1))),
        row(pointer=POINTER + 8, box=((4, 10, 10), (3, 1, 1))),
    ),
    "two boxes across": (
        row(box=((4, 10, 10), (3, 1, 1))),
        row(box=((3, 10, 10), (4, 1, 1))),
    ),
}


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("name", OVERLAPS)
def test_overlapping_regions_are_refused(name: str, swap: bool) -> None:
    TARGET.zero_()
    table = list(OVERLAPS[name])
    with pytest.raises(ValueError, match="same memory"):
        _C.fill(table[::-1] if swap else table)
    assert not TARGET.any()


DISJOINT = {
    "end to end": (row(), row(pointer=POINTER + 4 * N)),
    "columns side by side": (
        row(box=((4, 10, 10), (5, 1, 1))),
        row(pointer=POINTER + 20, box=((4, 10, 10), (5, 1, 1))),
    ),
    "interleaved": (
        row(box=((N, 2, 1),)),
        row(pointer=POINTER + 4, box=((N, 2, 1),)),
    ),
    "an empty one inside": (row(), row(pointer=POINTER + 16, box=0)),
}


@pytest.mark.parametrize("name", DISJOINT)
def test_disjoint_regions_are_filled(name: str) -> None:
    TARGET.zero_()
    _C.fill(list(DISJOINT[name]))
    sizes = {"end to end": 2 * N, "columns side by side": N, "interleaved": 2 * N}
    assert torch.count_nonzero(TARGET) == sizes.get(name, N)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two", None, 2**40])
def test_threads_must_be_a_positive_count(threads: Any) -> None:
    TARGET.zero_()
    with pytest.raises((ValueError, TypeError)):
        _C.fill([GOOD], threads)
    assert not TARGET.any()


@pytest.mark.parametrize("isa", ["sse9", "", "AVX2", 3])
def test_an_unknown_instruction_set_is_refused(isa: Any) -> None:
    TARGET.zero_()
    with pytest.raises((ValueError, TypeError)):
        _C.fill([GOOD], 1, isa)
    assert not TARGET.any()


@pytest.mark.parametrize("table", [None, 5, "table", GOOD, {1: 2}])
def test_a_table_is_a_sequence_of_rows(table: Any) -> None:
    TARGET.zero_()
    with pytest.raises((ValueError, TypeError)):
        _C.fill(table)
    assert not TARGET.any()


def test_eight_axes_are_allowed() -> None:
    TARGET.zero_()
    _C.fill([row(box=((1, 1, 1),) * 7 + ((N, 1, 1),))])
    assert torch.count_nonzero(TARGET) == N


def test_the_strides_of_an_axis_of_one_do_not_matter() -> None:
    TARGET.zero_()
    _C.fill([row(box=((1, 0, 0), (N, 1, 1), (1, -7, 2**62)))])
    assert torch.count_nonzero(TARGET) == N


def test_a_half_truncation_may_be_infinite() -> None:
    for a, b in ((-INF, 0.5), (0.5, INF), (-INF, INF)):
        TARGET.zero_()
        _C.fill([trunc(0.0, 1.0, a, b)])
        assert bool(torch.isfinite(TARGET[:N]).all())
        assert bool(((a <= TARGET[:N]) & (TARGET[:N] <= b)).all())
        assert torch.count_nonzero(TARGET) == N


def test_what_one_dtype_serves_another_still_refuses() -> None:
    """The parameters of the truncated normal before are kept for the next one."""
    wide = torch.zeros(4, dtype=torch.float64)
    far = {"p0": 0.0, "p1": 1.0, "p2": 20.0, "p3": 21.0, "kind": _C.TRUNC_NORMAL, "box": 4}
    TARGET.zero_()
    for _ in range(2):
        _C.fill([row(dtype=_C.FLOAT64, pointer=wide.data_ptr(), **far)])
        with pytest.raises(ValueError, match="too many standard deviations"):
            _C.fill([row(**far)])
    assert bool((wide >= 20).all())
    assert not TARGET.any()
