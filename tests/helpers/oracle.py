"""Stream v1 written a second time, from its specification alone: NumPy, float64 and mpmath.

The tests compare the native kernels with this file, so it shares nothing with them: no code, no
polynomial, no order of evaluation. Words and uniform values are exact, so they are compared bit by
bit. Normal and truncated normal values are float64 references, far better than fp32; `exact_normal`
and `exact_trunc_normal` evaluate one element to 50 digits and judge both sides when fp64 itself is
under test.

Indices are logical row-major element indices, given as uint64 arrays of any length; seeds and
streams are Python ints in [0, 2**64). Dtypes are named "float32", "float16", "bfloat16" and
"float64".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy import special

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Box = int | Sequence[tuple[int, int, int]]

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = 0x9E3779B9, 0xBB67AE85
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
TWO_32, TWO_53 = 2.0**-32, 2.0**-53


# --- generator ------------------------------------------------------------------------------------


def stream_id(name: str) -> int:
    """The stream of a parameter: 8 bytes of BLAKE2b over its UTF-8 name, little-endian."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "little")


def philox(block: U64, stream: int, seed: int) -> U32:
    """Philox4x32-10 of the counters (block, stream) under the key `seed`; shape (len(block), 4)."""
    c0, c1 = block & LOW, block >> HALF
    c2 = np.full_like(block, stream & 0xFFFFFFFF)
    c3 = np.full_like(block, stream >> 32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = (
            (p1 >> HALF) ^ c1 ^ np.uint64(k0),
            p1 & LOW,
            (p0 >> HALF) ^ c3 ^ np.uint64(k1),
            p0 & LOW,
        )
        k0, k1 = (k0 + W0) & 0xFFFFFFFF, (k1 + W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(seed: int, stream: int, index: U64) -> U32:
    """The word that belongs to each element of a 32-bit (or narrower) parameter."""
    out = philox(index >> np.uint64(2), stream, seed)
    lane = (index & np.uint64(3)).astype(np.intp)
    return np.take_along_axis(out, lane[:, None], axis=1)[:, 0]


def bits53(seed: int, stream: int, index: U64) -> U64:
    """The 53 bits that belong to each element of a float64 parameter."""
    out = philox(index >> np.uint64(1), stream, seed).astype(np.uint64)
    first = ((out[:, 0] << HALF) | out[:, 1]) >> np.uint64(11)
    second = ((out[:, 2] << HALF) | out[:, 3]) >> np.uint64(11)
    return np.where(index & np.uint64(1), second, first)


def pair_bits(seed: int, stream: int, index: U64, dtype: str) -> tuple[U64, U64, NDArray[np.bool_]]:
    """Radius bits, angle bits and "takes the sine" for each element of a normal: an even element
    and the next odd one are the cosine and the sine of what the two of them own."""
    odd = (index & np.uint64(1)).astype(bool)
    even = index & ~np.uint64(1)
    if dtype == "float64":
        return (
            bits53(seed, stream, even),
            bits53(seed, stream, even + np.uint64(1)),
            odd,
        )
    radius = words(seed, stream, even).astype(np.uint64)
    angle = words(seed, stream, even + np.uint64(1)).astype(np.uint64)
    return radius, angle, odd


def box_indices(start: int, box: Box) -> tuple[U64, I64]:
    """Logical index and memory offset (in elements) of every element of a region, in the box's
    row-major order."""
    axes = [(box, 1, 1)] if isinstance(box, int) else list(box)
    index = np.array([start], dtype=np.uint64)
    memory = np.zeros(1, dtype=np.int64)
    for size, memory_stride, index_stride in axes:
        steps = np.arange(size, dtype=np.int64)
        index = (index[:, None] + (steps * index_stride).astype(np.uint64)).ravel()
        memory = (memory[:, None] + steps * memory_stride).ravel()
    return index, memory


# --- numbers as a dtype represents them -----------------------------------------------------------


def represent(value: float, dtype: str) -> float:
    """`value` rounded to nearest even to float32, then to the dtype (float64: unchanged)."""
    if dtype == "float64":
        return value
    with np.errstate(over="ignore"):
        single = np.float32(value)
        if dtype == "float16":
            return float(np.float16(single))
    if dtype == "float32" or not math.isfinite(single):
        return float(single)
    bits = int(single.view(np.uint32))
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return float(np.uint32(bits).view(np.float32))


def below(value: float, dtype: str) -> float:
    """The largest value of the dtype below `value`, which the dtype must represent exactly."""
    if dtype == "float64":
        return math.nextafter(value, -math.inf)
    if dtype == "float32":
        return float(np.nextafter(np.float32(value), np.float32(-math.inf)))
    if dtype == "float16":
        return float(np.nextafter(np.float16(value), np.float16(-math.inf)))
    bits = int(np.float32(value).view(np.uint32)) >> 16
    if bits & 0x7FFF == 0:  # either zero: the smallest negative denormal
        bits = 0x8001
    else:
        bits += 1 if bits & 0x8000 else -1
    return float(np.uint32(bits << 16).view(np.float32))


# --- uniform: exact -------------------------------------------------------------------------------


def fma32(x: F32, y: np.float32, z: np.float32) -> F32:
    """x * y + z rounded once to float32.

    The product of two floats is exact in double. The sum is rounded to odd there, which leaves the
    trace of the bits lost that makes the second rounding, to float, come out as if it were the only
    one.
    """
    product = x.astype(np.float64) * np.float64(y)
    addend = np.float64(z)
    total = product + addend
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    even = (total.view(np.uint64) & np.uint64(1)) == 0
    towards = np.where(lost > 0, np.inf, -np.inf)
    odd = np.where((lost != 0) & even, np.nextafter(total, towards), total)
    with np.errstate(over="ignore"):
        return odd.astype(np.float32)


def fma64(x: F64, y: float, z: float) -> F64:
    """x * y + z rounded once to float64, through rational numbers: slow, for small arrays."""
    slope, offset = Fraction(y), Fraction(z)
    return np.array([float(Fraction(v) * slope + offset) for v in x.tolist()], dtype=np.float64)


def uniform(
    seed: int, stream: int, index: U64, dtype: str, a: float, b: float, cast: float = 0.0
) -> F64:
    """The values of a uniform parameter before they are rounded to a 16-bit dtype, exactly, as
    float64. `cast`: 1 for what was drawn in float32 and rounded since."""
    held = "float32" if cast == 1 else dtype
    low, high = represent(a, held), represent(b, held)
    top = below(high, held)
    if top < low:
        top = low
    if dtype == "float64":
        u = bits53(seed, stream, index).astype(np.float64) * TWO_53
        return np.minimum(fma64(u, b - a, a), top)
    u = words(seed, stream, index).astype(np.float32) * np.float32(TWO_32)
    value = fma32(u, np.float32(b - a), np.float32(a))
    return np.minimum(value.astype(np.float64), top)


# --- normal and truncated normal: float64 references ----------------------------------------------


def unit_interval(bits: U64, dtype: str) -> tuple[F64, F64]:
    """u = (bits + 1/2) / 2**width and 1 - u. Whichever of the two is below 1/2 is exact: the other
    may have one bit too many for a double."""
    width = 53 if dtype == "float64" else 32
    rest = np.uint64(2**width - 1) - bits
    scale = 2.0**-width
    return (bits.astype(np.float64) + 0.5) * scale, (rest.astype(np.float64) + 0.5) * scale


def standard_normal(seed: int, stream: int, index: U64, dtype: str) -> F64:
    """z of each element, before std and mean."""
    radius_bits, angle_bits, odd = pair_bits(seed, stream, index, dtype)
    u, rest = unit_interval(radius_bits, dtype)
    log_u = np.where(u < 0.5, np.log(u), np.log1p(-rest))
    radius = np.sqrt(-2.0 * log_u)
    return radius * _circle(angle_bits, 53 if dtype == "float64" else 32, odd)


def _circle(angle: U64, width: int, sine: NDArray[np.bool_]) -> F64:
    """cos or sin of 2 pi angle / 2**width, to the last bit or two even beside their zeros: the
    angle is reduced to an eighth of a turn as an integer."""
    bits = np.uint64(width)
    # sin(t) = cos(t - a quarter turn)
    turned = np.where(sine, angle + np.uint64(3 * 2 ** (width - 2)), angle) & np.uint64(
        2**width - 1
    )
    quadrant = ((turned + np.uint64(2 ** (width - 3))) >> (bits - np.uint64(2))) & np.uint64(3)
    offset = (turned - (quadrant << (bits - np.uint64(2)))).astype(np.int64)
    offset = np.where(offset >= 2 ** (width - 1), offset - 2**width, offset)
    phi = offset.astype(np.float64) * (2.0 * math.pi * 2.0**-width)
    cosine, sin = np.cos(phi), np.sin(phi)
    return np.choose(quadrant.astype(np.intp), [cosine, -sin, -cosine, sin])


def normal(seed: int, stream: int, index: U64, dtype: str, mean: float, std: float) -> F64:
    """The values of a normal parameter before rounding to the dtype (mean and std as the arithmetic
    holds them)."""
    z = standard_normal(seed, stream, index, dtype)
    return z * _working(std, dtype) + _working(mean, dtype)


def trunc_normal(
    seed: int, stream: int, index: U64, dtype: str, mean: float, std: float, a: float, b: float
) -> F64:
    """The values of a truncated normal parameter before rounding to the dtype, clamped to the
    bounds."""
    low, high = _working(a, dtype), _working(b, dtype)
    if dtype == "float64":
        bits = bits53(seed, stream, index)
    else:
        bits = words(seed, stream, index).astype(np.uint64)
    u, rest = unit_interval(bits, dtype)
    x = truncated_quantile(u, rest, (a - mean) / std, (b - mean) / std)
    return np.clip(x * _working(std, dtype) + _working(mean, dtype), low, high)


def truncated_quantile(u: F64, rest: F64, alpha: float, beta: float) -> F64:
    """Phi^-1(Phi(alpha) + u (Phi(beta) - Phi(alpha))), in logarithms of whichever tail is the
    smaller one."""
    with np.errstate(divide="ignore"):
        log_u = np.where(u < 0.5, np.log(u), np.log1p(-rest))
        log_rest = np.where(rest < 0.5, np.log(rest), np.log1p(-u))
    left = np.logaddexp(special.log_ndtr(alpha) + log_rest, special.log_ndtr(beta) + log_u)
    right = np.logaddexp(special.log_ndtr(-alpha) + log_rest, special.log_ndtr(-beta) + log_u)
    return np.where(left < right, special.ndtri_exp(left), -special.ndtri_exp(right))


def _working(value: float, dtype: str) -> float:
    """A parameter in the precision of the arithmetic: float32, but for float64."""
    return value if dtype == "float64" else represent(value, "float32")


# --- one element to fifty digits ------------------------------------------------------------------


def exact_normal(seed: int, stream: int, element: int, dtype: str, mean: float, std: float) -> Any:
    """The real number that element `element` of a normal parameter approximates (mpmath.mpf)."""
    index = np.array([element], dtype=np.uint64)
    radius_bits, angle_bits, odd = pair_bits(seed, stream, index, dtype)
    width = 53 if dtype == "float64" else 32
    with mpmath.workdps(50):
        u = mpmath.ldexp(mpmath.mpf(int(radius_bits[0])) + mpmath.mpf("0.5"), -width)
        theta = mpmath.ldexp(2 * mpmath.pi * int(angle_bits[0]), -width)
        z = mpmath.sqrt(-2 * mpmath.log(u)) * (mpmath.sin if odd[0] else mpmath.cos)(theta)
        return z * _working(std, dtype) + _working(mean, dtype)


def exact_trunc_normal(
    seed: int, stream: int, element: int, dtype: str, mean: float, std: float, a: float, b: float
) -> Any:
    """The real number that element `element` of a truncated normal parameter approximates
    (mpmath.mpf)."""
    index = np.array([element], dtype=np.uint64)
    bits = bits53(seed, stream, index) if dtype == "float64" else words(seed, stream, index)
    width = 53 if dtype == "float64" else 32
    with mpmath.workdps(50):
        u = mpmath.ldexp(mpmath.mpf(int(bits[0])) + mpmath.mpf("0.5"), -width)
        x = exact_quantile(u, (mpmath.mpf(a) - mean) / std, (mpmath.mpf(b) - mean) / std)
        value = x * _working(std, dtype) + _working(mean, dtype)
        return min(max(value, _working(a, dtype)), _working(b, dtype))


def exact_quantile(u: Any, alpha: Any, beta: Any) -> Any:
    """Phi^-1(Phi(alpha) + u (Phi(beta) - Phi(alpha))) by Newton's method on the logarithm of the
    smaller tail."""
    root = mpmath.sqrt(2)

    def left_tail(x: Any) -> Any:
        return mpmath.erfc(-x / root) / 2

    p = (1 - u) * left_tail(alpha) + u * left_tail(beta)
    q = (1 - u) * left_tail(-alpha) + u * left_tail(-beta)
    if q < p:
        return -exact_quantile(1 - u, -beta, -alpha)
    x = mpmath.mpf(float(special.ndtri_exp(float(mpmath.log(p)))))
    for _ in range(4):
        tail = left_tail(x)
        x -= mpmath.log(tail / p) * tail / mpmath.npdf(x)
    return x
