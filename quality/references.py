"""What the kernels approximate, in float64 and long double, from the definitions of stream v1.

A radius or a quantile belongs to u = (word + 1/2) 2^-32, an angle to word 2^-32 turns; fp64 has 53
bits in place of 32. Each reference starts from whichever of u and 1 - u (or of the distances to the
axes) is small, which is exact, so that the float64 results are good to a few units of 10^-16,
relative, everywhere: a few 10^-9 of an ulp of float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy import special

F64 = NDArray[np.float64]
Reference = Callable[[NDArray[Any]], F64]


def log_radius(word: NDArray[Any]) -> F64:
    """sqrt(-2 log u)."""
    low, high = _unit_interval(word)
    return np.sqrt(-2.0 * np.where(low < 0.5, np.log(low), np.log1p(-high)))


def log_radius_long(bits: NDArray[np.uint64]) -> NDArray[np.longdouble]:
    """The same for the 53 bits of fp64, in long double, where u and 1 - u are both exact."""
    u = (bits.astype(np.longdouble) + 0.5) * np.longdouble(2.0**-53)
    rest = ((np.uint64(2**53 - 1) - bits).astype(np.longdouble) + 0.5) * np.longdouble(2.0**-53)
    return np.sqrt(-2 * np.where(u < 0.5, np.log(u), np.log1p(-rest)))


def cosine(word: NDArray[Any]) -> F64:
    """cos of the angle."""
    return _circle(word.astype(np.int64), 32, np.float64)[0]


def sine(word: NDArray[Any]) -> F64:
    """sin of the angle."""
    return _circle(word.astype(np.int64), 32, np.float64)[1]


def standard_pair(even: NDArray[Any], odd: NDArray[Any], out: F64) -> None:
    """The normals of pairs of words, into `out` of shape (n, 2)."""
    radius = log_radius(even)
    for k, side in enumerate(_circle(odd.astype(np.int64), 32, np.float64)):
        np.multiply(radius, side, out=out[:, k])


def circle_long(bits: NDArray[np.uint64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """cos and sin of bits 2^-53 turns, in long double."""
    return _circle(bits.astype(np.int64), 53, np.longdouble)


def _circle(turns: NDArray[np.int64], width: int, dtype: type) -> tuple[Any, Any]:
    """The nearest axis is split off as an integer, so that what is small is small exactly."""
    quarter = 1 << (width - 2)
    axis = (turns + quarter // 2) // quarter
    two_pi = 8 * np.arctan(dtype(1))
    angle = (turns - axis * quarter).astype(dtype) * (two_pi * dtype(2.0**-width))
    cos, sin = np.cos(angle), np.sin(angle)
    axis = axis % 4
    return (
        np.choose(axis, [cos, -sin, -cos, sin]),
        np.choose(axis, [sin, cos, -sin, -cos]),
    )


def _unit_interval(word: NDArray[Any]) -> tuple[F64, F64]:
    """u and 1 - u, each exact in float64."""
    position = word.astype(np.float64)
    return (position + 0.5) * 2.0**-32, ((2.0**32 - 0.5) - position) * 2.0**-32


@dataclass(frozen=True)
class Quantile:
    """Phi^-1(Phi(a) + u (Phi(b) - Phi(a))), the truncated normal's inverse distribution function.

    By the smaller tail; and where that is not small, by erf^-1 of the distance to the median of the
    normal, in which a symmetric window's middle stays exact.
    """

    a: float
    b: float

    def __call__(self, word: NDArray[Any]) -> F64:
        u, rest = _unit_interval(word)
        left = rest * special.ndtr(self.a) + u * special.ndtr(self.b)
        right = rest * special.ndtr(-self.a) + u * special.ndtr(-self.b)
        tail = np.minimum(left, right)
        result = np.copysign(special.ndtri(tail), left - right)
        central = tail > 0.25
        if central.any():
            half_a, half_b = (0.5 * special.erf(end * math.sqrt(0.5)) for end in (self.a, self.b))
            from_middle = (word[central].astype(np.float64) - (2.0**31 - 0.5)) * 2.0**-32
            offset = 0.5 * (half_a + half_b) + from_middle * (half_b - half_a)
            result[central] = math.sqrt(2.0) * special.erfinv(2.0 * offset)
        return np.clip(result, self.a, self.b)


def exact_error(value: float, bits: int, window: tuple[float, float]) -> float:
    """`value` less the quantile of (bits + 1/2) 2^-53 in the window, by Newton's method with fifty
    digits."""
    with mpmath.workdps(60):
        u = (mpmath.mpf(bits) + mpmath.mpf("0.5")) / 2**53
        low, high = (mpmath.ncdf(end) if value < 0 else mpmath.ncdf(-end) for end in window)
        goal = (1 - u) * low + u * high
        sign = 1 if value < 0 else -1
        x = mpmath.mpf(value)
        for _ in range(3):
            x -= sign * (mpmath.ncdf(sign * x) - goal) / mpmath.npdf(x)
        return float(mpmath.mpf(value) - x)


def exact_cosine_normal(even: int, odd: int) -> mpmath.mpf:
    """The first fp64 normal of a pair, to the working precision of mpmath."""
    u = (mpmath.mpf(even) + mpmath.mpf("0.5")) / 2**53
    return mpmath.sqrt(-2 * mpmath.log(u)) * mpmath.cos(2 * mpmath.pi * odd / 2**53)


BLOCK = 1 << 16
_NODES = 12


class Interpolated:
    """A reference for whole blocks of 2^16 consecutive words, by polynomial interpolation.

    2^32 logarithms or quantiles in float64 take minutes, and between two words a few blocks away
    from its singularities such a function is a polynomial to all digits. Every block is checked
    against the reference itself at points between its nodes, and one that differs by more than
    2^-35 relative (a thousandth of an ulp or less) is evaluated word by word. Interpolation at
    Chebyshev's points by Lagrange's formula: Berrut and Trefethen, SIAM Review 46, 2004.
    """

    TOLERANCE = 2.0**-35

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.direct_blocks = 0
        turns = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)[::-1]
        self._nodes = np.rint((turns + 1) / 2 * (BLOCK - 1)).astype(np.int64)
        between = (self._nodes[1:] + self._nodes[:-1]) // 2
        self._checks = np.concatenate([[0], between, [BLOCK - 1]])
        self._basis = self._lagrange(np.arange(BLOCK))

    def _lagrange(self, at: NDArray[np.int64]) -> F64:
        """Row j: the polynomial that is 1 at node j and 0 at the others."""
        scaled, nodes = at / BLOCK, self._nodes / BLOCK
        rows = []
        for j, node in enumerate(nodes):
            others = np.delete(nodes, j)
            rows.append(np.prod([(scaled - x) / (node - x) for x in others], axis=0))
        return np.array(rows)

    def __call__(self, first_block: int, blocks: int) -> F64:
        """The reference at every word of these blocks, shape (blocks, 2^16)."""
        origin = (first_block + np.arange(blocks, dtype=np.int64))[:, None] * BLOCK
        result: F64 = self.reference(origin + self._nodes) @ self._basis
        truth = self.reference(origin + self._checks)
        error = np.abs(result[:, self._checks] - truth)
        for k in np.flatnonzero((error > self.TOLERANCE * np.abs(truth)).any(axis=1)):
            result[k] = self.reference(origin[k] + np.arange(BLOCK))
            self.direct_blocks += 1
        return result
