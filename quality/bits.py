"""Tests of raw words, bit by bit and as birthdays, collisions and gaps.

Knuth, The Art of Computer Programming, volume 2, section 3.3.2 (gaps, collisions, birthday
spacings); Marsaglia, "A current view of random number generators", 1985; L'Ecuyer and Simard, "On
the performance of birthday spacings tests with certain families of random number generators",
Mathematics and Computers in Simulation 55, 2001.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from quality.goodness import chi_square, equal_chi_square, normal_p, poisson_p, two_sided
from quality.samples import U32, Source

WORD = 32


def ones_per_position(words: U32) -> NDArray[np.int64]:
    """How many words have each bit set, from the lowest bit up."""
    return np.array(
        [np.count_nonzero(words & np.uint32(1 << bit)) for bit in range(WORD)], dtype=np.int64
    )


def z_of(ones: int, n: int) -> float:
    """Standard score of a count of n fair bits."""
    return (ones - n / 2) / (math.sqrt(n) / 2)


def _chi_square_of(z: NDArray[np.float64]) -> float:
    law, statistic = stats.chi2(z.size), float(np.sum(z * z))
    return two_sided(law.cdf(statistic), law.sf(statistic))


def _totals(source: Source, n: int) -> NDArray[np.int64]:
    chunk = min(1 << 20, n)
    return np.sum(
        [ones_per_position(source.words(start, chunk)) for start in range(0, n, chunk)], axis=0
    )


def monobit(source: Source, quick: bool) -> float:
    """Ones among all bits."""
    n = 1 << (18 if quick else 29)
    return normal_p(z_of(int(_totals(source, n).sum()), WORD * n))


def positions(source: Source, quick: bool) -> float:
    """Ones at each of the 32 positions: chi-square with 32 degrees of freedom."""
    n = 1 << (18 if quick else 29)
    totals = _totals(source, n)
    return _chi_square_of(np.array([z_of(int(ones), n) for ones in totals]))


def _planes(words: U32) -> NDArray[np.uint64]:
    """Row j: bit j of every word, 64 words to an element."""
    rows = [
        np.packbits((words >> np.uint32(bit) & np.uint32(1)).astype(bool)).view(np.uint64)
        for bit in range(WORD)
    ]
    return np.array(rows)


def _agreement(source: Source, lag: int, n: int) -> NDArray[np.float64]:
    """For bit j of each word and bit k of the one `lag` later, how much oftener they agree than
    differ, in standard deviations; shape (32, 32)."""
    chunk = min(1 << 20, n)
    differ = np.zeros((WORD, WORD))
    for start in range(0, n, chunk):
        words = source.words(start, chunk + 64)
        left, right = _planes(words[:chunk]), _planes(words[lag : chunk + lag])
        for j in range(WORD):
            differ[j] += np.bitwise_count(left[j] ^ right).sum(axis=1, dtype=np.int64)
    return (n - 2 * differ) / math.sqrt(n)


def within(source: Source, quick: bool) -> float:
    """The 496 pairs of bits of one word."""
    z = _agreement(source, 0, 1 << (18 if quick else 26))
    return _chi_square_of(z[np.triu_indices(WORD, 1)])


def across(lag: int) -> Callable[[Source, bool], float]:
    """The 1024 pairs of a bit and a bit of the word `lag` later."""

    def test(source: Source, quick: bool) -> float:
        return _chi_square_of(_agreement(source, lag, 1 << (18 if quick else 26)))

    return test


def birthday_spacings(source: Source, quick: bool) -> float:
    """2^12 birthdays in a year of 2^32 days: equal spacings, over many years a Poisson number with
    mean n^3 / 4d = 4 for each year."""
    years, birthdays = (64 if quick else 1 << 14), 1 << 12
    equal = 0
    for year in range(years):
        days = np.sort(source.words(year * birthdays, birthdays))
        spacings = np.sort(np.diff(days))
        equal += int(np.count_nonzero(spacings[1:] == spacings[:-1]))
    # The first term of L'Ecuyer and Simard's correction to the Poisson mean is of relative order
    # n / d and stays below a hundredth of a standard deviation.
    return poisson_p(equal, years * birthdays**3 / 4 / 2**WORD)


def collisions(source: Source, quick: bool) -> float:
    """2^18 balls into 2^32 urns, many times: repeated urns, nearly Poisson."""
    rounds, balls = (8 if quick else 1024), 1 << 18
    urns = 2.0**WORD
    repeated = 0
    for turn in range(rounds):
        words = np.sort(source.words(turn * balls, balls))
        repeated += int(np.count_nonzero(words[1:] == words[:-1]))
    occupied = -urns * math.expm1(balls * math.log1p(-1.0 / urns))
    return poisson_p(repeated, rounds * (balls - occupied))


def gaps(source: Source, quick: bool) -> float:
    """How far apart words below 2^27 (one in 32) lie: geometric."""
    n, rarity = 1 << (18 if quick else 26), 5
    chunk = min(1 << 20, n)
    at = np.concatenate(
        [
            start + np.flatnonzero(source.words(start, chunk) < np.uint32(1 << (WORD - rarity)))
            for start in range(0, n, chunk)
        ]
    )
    p, longest = 2.0**-rarity, 400
    counts = np.bincount(np.minimum(np.diff(at), longest), minlength=longest + 1)[1:]
    probability = p * (1 - p) ** np.arange(longest)
    probability[-1] = (1 - p) ** (longest - 1)
    return chi_square(counts, probability)


def _ranks(matrices: U32) -> NDArray[np.int64]:
    """Ranks over GF(2) of 32 x 32 matrices, a row to a word, shape (n, 32): for each column a row
    that has it is added to all that have it, itself included."""
    rows = matrices.copy()
    ranks = np.zeros(len(rows), dtype=np.int64)
    for bit in range(WORD):
        has = (rows >> np.uint32(bit) & np.uint32(1)).astype(bool)
        pivot = rows[np.arange(len(rows)), has.argmax(axis=1)]
        ranks += has.any(axis=1)
        rows ^= has * pivot[:, None]
    return ranks


def matrix_rank(source: Source, quick: bool) -> float:
    """Ranks of 32 x 32 matrices of bits (Marsaglia and Tsay, "Matrices and the structure of random
    number sequences", Linear Algebra and its Applications 67, 1985)."""
    n, chunk = 1 << (12 if quick else 20), 1 << 12
    counts = np.zeros(WORD + 1, dtype=np.int64)
    for first in range(0, n, chunk):
        matrices = source.words(first * WORD, chunk * WORD).reshape(-1, WORD)
        counts += np.bincount(_ranks(matrices), minlength=WORD + 1)
    probability = [
        2.0 ** -((WORD - r) ** 2)
        * math.prod((1 - 2.0 ** (i - WORD)) ** 2 / (1 - 2.0 ** (i - r)) for i in range(r))
        for r in range(WORD + 1)
    ]
    return chi_square(counts, np.array(probability))


def serial_bytes(source: Source, quick: bool) -> float:
    """Pairs of successive bytes of the sequence, which do not overlap."""
    n = 1 << (18 if quick else 26)
    chunk = min(1 << 20, n)
    counts = np.sum(
        [
            np.bincount(source.words(start, chunk).view(np.uint16), minlength=1 << 16)
            for start in range(0, n, chunk)
        ],
        axis=0,
    )
    return equal_chi_square(counts)


TESTS: dict[str, Callable[[Source, bool], float]] = {
    "monobit, 2^29 words": monobit,
    "each position, 2^29 words": positions,
    "pairs of bits of a word, 2^26 words": within,
    "pairs of bits, lag 1": across(1),
    "pairs of bits, lag 2": across(2),
    "pairs of bits, lag 4": across(4),
    "pairs of bits, lag 64": across(64),
    "birthday spacings, 2^14 times 2^12": birthday_spacings,
    "collisions, 2^10 times 2^18": collisions,
    "gaps, 2^26 words": gaps,
    "ranks of 2^20 matrices": matrix_rank,
    "pairs of bytes, 2^26 words": serial_bytes,
}
