"""Accuracy: the largest error of each function against references far better than it.

An error is counted in ulp of the exact value x: 2^(e - 23) with 2^e <= |x| < 2^(e + 1), and
2^(e - 52) in fp64. Next to a zero of the function this is a relative error, the strictest of
measures. A quantile that is zero away from the middle word (the window is not symmetric) is formed
by a subtraction there, and keeps an absolute accuracy instead: the unit is then held at that of
`floor` for smaller |x|, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import mpmath
import numpy as np
from numpy.typing import NDArray

from fastinit import _C
from quality import references
from quality.evaluator import (
    COS_SIN,
    LOG_RADIUS,
    Function,
    compare,
    evaluate,
    quantile_errors,
)
from quality.references import BLOCK, F64, Interpolated, Quantile, Reference
from quality.report import Section
from quality.samples import words

TITLE = "Accuracy"
GOAL = 4.0  # ulp
INF = math.inf
STEP = 8  # blocks at a time: what stays in the cache


@dataclass(frozen=True)
class Worst:
    """The largest error in ulp, the word (or pair) it belongs to, and the mean of all errors."""

    ulp: float
    at: int
    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)

    def merged(self, other: Worst) -> Worst:
        largest = max(self, other, key=lambda worst: worst.ulp)
        return Worst(largest.ulp, largest.at, self.total + other.total, self.count + other.count)


NOTHING = Worst(-1.0, 0)


def worst(values: NDArray[np.float32], exact: F64, first: int = 0, floor: float = 0.0) -> Worst:
    """The errors of fp32 values of consecutive words (or pairs) from `first` on."""
    largest, at, total = compare(values, exact, floor)
    return Worst(largest, first + at, total, exact.size)


def worst64(errors: F64, values: F64, floor: float = 0.0) -> Worst:
    """The same in fp64, whose errors come from elsewhere."""
    size = np.maximum(np.abs(values), max(floor, 2.0**-1022))
    ulp = np.abs(errors) / np.exp2(np.floor(np.log2(size)) - 52)
    at = int(np.argmax(np.where(np.isnan(ulp), INF, ulp)))
    return Worst(float(ulp[at]), at, float(ulp.sum()), len(ulp))


@dataclass(frozen=True)
class Case:
    """A function of one word and what it should be: one reference, or those of cos and sin, which
    come from the even and the odd word of a pair."""

    name: str
    function: Function
    references: tuple[Reference, ...]
    floor: float = 0.0


def _window(a: float, b: float) -> Case:
    function = Function(_C.TRUNC_NORMAL, _C.FLOAT32, (0.0, 1.0, a, b))
    name = f"quantile, window [{a:g}, {b:g}]"
    return Case(name, function, (Quantile(a, b),), floor_of(a, b))


def floor_of(a: float, b: float) -> float:
    """0 where the relative error is bounded: windows that are symmetric or end at or before 0."""
    return 0.0 if a == -b or a >= 0 or b <= 0 else 0.25


CASES = (
    Case("log radius", Function(LOG_RADIUS), (references.log_radius,)),
    Case("cos / sin", Function(COS_SIN), (references.cosine, references.sine)),
    _window(-2, 2),
    _window(-30, 30),
    _window(2, 4),
    _window(5, 6),
    _window(0, INF),
    _window(3, INF),
    _window(-INF, 0.5),
)


def scan(case: Case, stride: int = 1) -> tuple[list[Worst], int]:
    """The worst of each reference over all 2^32 words (of every `stride`-th part of them); and how
    many blocks of 2^16 words the reference was evaluated word by word in."""
    exact = [Interpolated(reference) for reference in case.references]
    parts = len(exact)

    def group(first: int) -> list[Worst]:
        word = np.arange(first * BLOCK, (first + STEP) * BLOCK, dtype=np.uint32)
        got = evaluate(case.function, np.repeat(word, parts) if parts > 1 else word)
        return [
            worst(got[k::parts], reference(first, STEP), first * BLOCK, case.floor)
            for k, reference in enumerate(exact)
        ]

    total = [NOTHING] * parts
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(group, range(0, 1 << 16, STEP * stride)):
            total = [left.merged(right) for left, right in zip(total, found, strict=True)]
    return total, sum(reference.direct_blocks for reference in exact)


def scan_normals(pairs: int) -> Worst:
    """fp32 normals of random words against radius times cosine and sine in float64."""
    chunk = 1 << 18

    def part(first: int) -> Worst:
        word = words(2 * chunk, start=2 * first)
        exact = np.empty((chunk, 2))
        references.standard_pair(word[0::2], word[1::2], out=exact)
        values = evaluate(Function(_C.NORMAL, _C.FLOAT32, (0.0, 1.0)), word)
        return worst(values, exact, 2 * first)

    total = NOTHING
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(part, range(0, pairs, chunk)):
            total = total.merged(found)
    return total


def bits_of_double(word: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The 53 bits of each element of an fp64 parameter, from its two words."""
    wide = word.astype(np.uint64).reshape(-1, 2)
    return ((wide[:, 0] << np.uint64(32)) | wide[:, 1]) >> np.uint64(11)


def scan_normals64(pairs: int) -> Worst:
    """fp64 normals of random words against long double."""
    word = words(4 * pairs)
    bits = bits_of_double(word)
    got = evaluate(Function(_C.NORMAL, _C.FLOAT64, (0.0, 1.0)), word)
    radius = references.log_radius_long(bits[0::2])
    exact = np.stack([radius * side for side in references.circle_long(bits[1::2])], axis=1).ravel()
    return worst64((got - exact).astype(np.float64), exact.astype(np.float64))


def scan_quantile64(window: tuple[float, float], n: int) -> Worst:
    """fp64 truncated normals of random words against a step of Newton's method in long double."""
    word = words(2 * n)
    got = evaluate(Function(_C.TRUNC_NORMAL, _C.FLOAT64, (0.0, 1.0, *window)), word)
    return worst64(quantile_errors(window, bits_of_double(word), got), got, floor_of(*window))


def long_double_doubt(window: tuple[float, float], n: int) -> float:
    """By how many ulp of fp64 the errors that `scan_quantile64` works with differ from those found
    with mpmath at most."""
    word = words(2 * n)
    bits = bits_of_double(word)
    got = evaluate(Function(_C.TRUNC_NORMAL, _C.FLOAT64, (0.0, 1.0, *window)), word)
    errors = quantile_errors(window, bits, got)
    exact = np.array(
        [references.exact_error(float(x), int(k), window) for x, k in zip(got, bits, strict=True)]
    )
    return worst64(errors - exact, got, floor_of(*window)).ulp


def normal_doubt(pairs: int) -> float:
    """The same for the long double normals of `scan_normals64`."""
    bits = bits_of_double(words(4 * pairs))
    radius = references.log_radius_long(bits[0::2])
    got = radius * references.circle_long(bits[1::2])[0]
    errors = []
    with mpmath.workdps(40):
        for x, even, odd in zip(got, bits[0::2], bits[1::2], strict=True):
            high = float(x)
            rest = mpmath.mpf(high) + mpmath.mpf(float(x - high))
            errors.append(float(rest - references.exact_cosine_normal(int(even), int(odd))))
    return worst64(np.array(errors), got.astype(np.float64)).ulp


WINDOWS64 = (
    (-2.0, 2.0),
    (-30.0, 30.0),
    (2.0, 4.0),
    (5.0, 6.0),
    (20.0, 21.0),
    (3.0, INF),
    (0.0, INF),
)


def run(quick: bool) -> Section:
    """The section of the report."""
    section = Section(TITLE)
    stride = 64 if quick else 1
    share = f"every {stride}th part of the" if quick else "all"
    section.text(
        f"Functions of one word, over {share} 2^32 words, in fp32 against float64. Errors are in "
        "ulp of the exact value, so next to the axes (cos, sin) and to the median (quantiles of "
        "symmetric windows) they are relative errors, with no exception made for the zeros. The "
        f"limit is {GOAL:g} ulp. Where a window contains 0 elsewhere, the position of a word is "
        "the sum of two numbers that may be as large as 1, and the unit shrinks no further than "
        "that of 1/4."
    )
    rows = []
    direct = 0
    for case in CASES:
        found, blocks = scan(case, stride)
        direct += blocks
        for name, result in zip(case.name.split(" / "), found, strict=True):
            what = f"{name}: {result.ulp:.2f} ulp"
            verdict = section.require(result.ulp <= GOAL, what)
            measure = "relative" if case.floor == 0 else f"absolute below {case.floor:g}"
            rows.append(
                [
                    name,
                    measure,
                    f"{result.ulp:.3f}",
                    f"{result.at:#010x}",
                    f"{result.mean:.2f}",
                    verdict,
                ]
            )
    section.table(["fp32", "measure", "max ulp", "at word", "mean ulp", "verdict"], rows)
    section.text(
        "The reference is NumPy's and SciPy's float64 functions, interpolated within blocks of "
        "2^16 words and checked in each of them: beyond 2^-35 of difference, relative, a block is "
        f"evaluated word by word, as {direct} were."
    )
    _normals_and_double(section, quick)
    return section


def _normals_and_double(section: Section, quick: bool) -> None:
    pairs = 1 << 22 if quick else 1 << 29
    n = 1 << 16 if quick else 1 << 22
    few = 200 if quick else 4000
    rows: list[Sequence[str]] = []

    def add(name: str, against: str, result: Worst) -> None:
        verdict = section.require(result.ulp <= GOAL, f"{name}: {result.ulp:.2f} ulp")
        rows.append(
            [
                name,
                against,
                f"{result.count:,}",
                f"{result.ulp:.3f}",
                f"{result.mean:.2f}",
                verdict,
            ]
        )

    add("fp32 normal", "float64", scan_normals(pairs))
    wide = np.finfo(np.longdouble).nmant > 60
    if wide:
        add("fp64 normal", "long double", scan_normals64(n))
    for a, b in WINDOWS64 if wide else ():
        result = scan_quantile64((a, b), n)
        add(f"fp64 quantile, window [{a:g}, {b:g}]", "long double", result)
    section.text("Random words, with the same measures:")
    section.table(["", "against", "values", "max ulp", "mean ulp", "verdict"], rows)
    if not wide:
        section.text("fp64 is skipped: this platform's long double is no longer than a double.")
        return
    doubt = max(normal_doubt(few), *(long_double_doubt(w, few // 8) for w in WINDOWS64))
    verdict = section.require(doubt < 0.05, f"the long double references differ: {doubt:.3f} ulp")
    section.text(
        f"The long double references against mpmath, at {few:,} normals and {few // 8:,} quantiles "
        f"of each window: at most {doubt:.4f} ulp of fp64 apart ({verdict}; limit 0.05)."
    )
