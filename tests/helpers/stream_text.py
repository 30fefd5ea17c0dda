"""Stream v1 as csrc/stream/STREAM.md defines it, written from that text alone: slow and exact.

Numbers are Python floats, which hold every number of all four dtypes. The one operation is a b + c:
it is carried out in integers without any error and then rounded once, to the format at hand, so
that neither NumPy nor the machine's float32 takes part. What the text does in doubles is done with
Python's own. Arguments have to be within the limits of section 6: they are not checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from math import copysign, frexp, inf, isinf, isqrt, ldexp, sqrt
from pathlib import Path
from typing import NamedTuple

Numbers = Sequence[float]
Pair = tuple[float, float]

TEXT = (Path(__file__).parents[2] / "csrc" / "stream" / "STREAM.md").read_text(encoding="utf-8")
# The tables are read from the text, not copied: a digit that goes wrong there is then found here.
TABLES: dict[str, list[float]] = {
    name: [float(number) for number in digits.replace(",", " ").split()]
    for name, digits in re.findall(r"^([A-Z0-9_]+) = \[\n([^\]]*)\]", TEXT, re.MULTILINE)
}
WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # of the generator, for counter words 0 and 2
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def exact(x: float) -> tuple[int, int]:
    """Integers n and e of a finite x = n 2^e."""
    numerator, denominator = x.as_integer_ratio()
    return numerator, 1 - denominator.bit_length()


class Format:
    """A binary format of IEEE 754, of `width` bits with `fraction` bits after the leading one."""

    def __init__(self, width: int, fraction: int) -> None:
        self.width, self.fraction = width, fraction
        self.sign = 1 << (width - 1)
        self.infinity = self.sign - (1 << fraction)
        self.least = 2 - (1 << (width - fraction - 2))  # the exponent of the first normal number

    def nearest(self, n: int, e: int) -> int:
        """The bits of the number nearest to n 2^e, n not zero: ties to even, subnormals kept."""
        size = abs(n)
        exponent = max(size.bit_length() - 1 + e, self.least)
        dropped = exponent - self.fraction - e
        if dropped > 0:  # a tie goes up where the last digit that is kept is odd
            size = (size + (1 << (dropped - 1)) - 1 + (size >> dropped & 1)) >> dropped
        else:
            size <<= -dropped
        # The leading one of a normal number, and the carry of rounding up, count the exponent on.
        number = min(size + ((exponent - self.least) << self.fraction), self.infinity)
        return number | (self.sign if n < 0 else 0)

    def encode(self, x: float) -> int:
        """The bits of x, rounded to this format."""
        if x == 0 or isinf(x):
            return (self.infinity if x else 0) | (self.sign if copysign(1.0, x) < 0 else 0)
        return self.nearest(*exact(x))

    def decode(self, bits: int) -> float:
        """The number that has these bits (not for NaN)."""
        size = bits & (self.sign - 1)
        field, digits = size >> self.fraction, size & ((1 << self.fraction) - 1)
        if field > 0:
            field, digits = field - 1, digits + (1 << self.fraction)
        value = inf if size == self.infinity else ldexp(digits, field + self.least - self.fraction)
        return -value if bits & self.sign else value

    def rounded(self, x: float) -> float:
        return self.decode(self.encode(x))

    def below(self, x: float) -> float:
        """The next number of this format below x, itself one of its finite numbers."""
        bits = self.encode(x) + (1 if x < 0 else -1)
        return self.decode(self.sign | 1 if x == 0 else bits)

    def fma(self, a: float, b: float, c: float) -> float:
        """a b + c, rounded once."""
        (a_n, a_e), (b_n, b_e), (c_n, c_e) = exact(a), exact(b), exact(c)
        e = min(a_e + b_e, c_e)
        n = (a_n * b_n << (a_e + b_e - e)) + (c_n << (c_e - e))
        if n == 0:
            return a * b + c  # a zero: Python gives it the sign that IEEE 754 asks for
        return self.decode(self.nearest(n, e))

    def multiply(self, a: float, b: float) -> float:
        return self.fma(a, b, -0.0)  # adding -0 changes nothing, a zero's sign included

    def root(self, x: float) -> float:
        """The square root of x > 0, rounded once."""
        n, e = exact(x)
        shift = 2 * self.width + e % 2  # digits enough, and an even exponent
        root = isqrt(n << shift)
        inexact = root * root != n << shift
        return self.decode(self.nearest(2 * root + inexact, (e - shift) // 2 - 1))

    def horner(self, x: float, coefficients: Numbers) -> float:
        """The polynomial in x, its coefficients rounded to this format; they ascend."""
        total = self.rounded(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            total = self.fma(total, x, self.rounded(coefficient))
        return total

    def two_chains(self, x: float, coefficients: Numbers) -> float:
        """The same, with even and odd powers apart."""
        square = self.multiply(x, x)
        even, odd = (self.horner(square, coefficients[start::2]) for start in range(2))
        return self.fma(odd, x, even)

    def four_chains(self, x: float, coefficients: Numbers) -> float:
        """The same, with powers apart by their remainder modulo four."""
        square = self.multiply(x, x)
        fourth = self.multiply(square, square)
        zero, one, two, three = (self.horner(fourth, coefficients[r::4]) for r in range(4))
        return self.fma(self.fma(three, x, two), square, self.fma(one, x, zero))


FORMATS = {"float16": Format(16, 10), "bfloat16": Format(16, 7), "float32": Format(32, 23)}
BINARY64 = FORMATS["float64"] = Format(64, 52)


def stream_of(name: str) -> int:
    """The stream of a tensor with this stream name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def philox(seed: int, stream: int, block: int) -> tuple[int, int, int, int]:
    """The four words of Philox4x32-10 of a block of a stream."""
    key = [seed & WORD, seed >> 32]
    x0, x1, x2, x3 = block & WORD, block >> 32, stream & WORD, stream >> 32
    for _ in range(10):
        high0, low0 = divmod(MULTIPLIERS[0] * x0, 1 << 32)
        high2, low2 = divmod(MULTIPLIERS[1] * x2, 1 << 32)
        x0, x1, x2, x3 = high2 ^ x1 ^ key[0], low2, high0 ^ x3 ^ key[1], low0
        key = [(word + step) & WORD for word, step in zip(key, KEY_STEPS, strict=True)]
    return x0, x1, x2, x3


def exponential(y: float) -> float:
    """e^y of a double y <= 0, to about a unit in the last place."""
    n = round(y * 1.4426950408889634)
    high, low = float.fromhex("0x1.62e42fefa38p-1"), float.fromhex("0x1.ef35793c7673p-45")  # log 2
    r = BINARY64.fma(-float(n), low, BINARY64.fma(-float(n), high, y))
    total = 1.0
    for k in range(14, 0, -1):
        total = BINARY64.fma(total, r / k, 1.0)
    return ldexp(total, n)


def mills(x: float) -> float:
    """e^(x^2 / 2) times the upper tail of the normal distribution, of a double x >= 0."""
    t = (x - 4.0) / (x + 4.0)
    first, *others = TABLES["MILLS"]
    b1 = b2 = 0.0
    for coefficient in reversed(others):
        b1, b2 = BINARY64.fma(2.0 * t, b1, coefficient - b2), b1
    return BINARY64.fma(t, b1, first - b2)


def normal_tail(x: float) -> float:
    """The probability of the normal distribution beyond a double x."""
    if x < 0:
        return 1.0 - normal_tail(-x)
    if x > 38.5:
        return 0.0
    e = exponential(-0.5 * (x * x))
    lost = BINARY64.fma(x, x, -(x * x))
    return BINARY64.fma(e, -0.5 * lost, e) * mills(x)


def normal_centre(x: float) -> float:
    """The probability of the normal distribution between 0 and a double x, with the sign of x."""
    if abs(x) > 1:
        return copysign(0.5 - normal_tail(abs(x)), x)
    y = 0.5 * x * x
    total = 0.0
    for k in range(16, -1, -1):
        total = BINARY64.fma(-y / (k + 1), total, 1.0 / (2 * k + 1))
    return 0.3989422804014327 * x * total


class Window(NamedTuple):
    """What is derived of a truncated normal distribution; pairs are of the two halves of words."""

    cdf: Pair
    complement: Pair
    width: float
    position: Pair
    from_middle: bool


class Precision(Format):
    """Elements computed in one format, of raw words of its width: their upper `used` bits count."""

    def __init__(self, width: int, fraction: int, used: int) -> None:
        super().__init__(width, fraction)
        self.unused, self.unit = width - used, 2.0**-used
        piece = rf"^ +\(([\d.]+), (QUANTILE_\w+_{width}), ([\d.]+)\),$"
        self.tail = re.findall(piece, TEXT, re.MULTILINE)  # begin, table, middle; ascending

    def table(self, name: str) -> Numbers:
        return TABLES[f"{name}_{self.width}"]

    def raw_word(self, seed: int, stream: int, index: int) -> int:
        """The raw word of an element."""
        if self.width == 32:
            return philox(seed, stream, index // 4)[index % 4]
        high, low = philox(seed, stream, index // 2)[index % 2 * 2 :][:2]
        return high << 32 | low

    def centred(self, word: int) -> float:
        """The place of a raw word: from the first, or in the upper half, down from the end."""
        if word >= self.sign:
            word -= 1 << self.width
        return self.rounded(word >> self.unused)

    def scaled_log(self, k: int, g: float, factor: float) -> float:
        """factor log(2^k (1 + g / factor)), factor -1 or -2."""
        coefficients = [c / factor ** (power + 1) for power, c in enumerate(self.table("LOG"))]
        start = self.fma(float(k), self.rounded(factor * 0.6931471805599453), g)
        return self.fma(self.multiply(g, g), self.two_chains(g, coefficients), start)

    def octave(self, x: float) -> int:
        """The k for which 2^-k x is in [sqrt(1/2), sqrt(2)), sqrt(1/2) being rounded."""
        part, k = frexp(x)
        return k if part >= self.rounded(sqrt(0.5)) else k - 1

    def minus_two_log(self, word: int) -> float:
        """-2 log of the middle of the raw word's interval."""
        s = self.fma(self.centred(word), 1.0, 0.5)
        origin = 1.0 if word >= self.sign else 0.0
        k = self.octave(self.fma(s, self.unit, origin))
        scale = ldexp(-2.0, -k)
        g = self.fma(s, scale * self.unit, self.fma(origin, scale, 2.0))
        return self.scaled_log(k, g, -2.0)

    def minus_log(self, y: float) -> float:
        """-log y of y > 0."""
        k = self.octave(y)
        return self.scaled_log(k, self.fma(ldexp(y, -k), -1.0, 1.0), -1.0)

    def cos_sin(self, word: int) -> Pair:
        """The cosine and the sine of the raw word as a fraction of a turn."""
        quarter = 1 << (self.width - 2)
        quadrant, rest = divmod(word + quarter // 2, quarter)
        t = self.rounded((rest - quarter // 2) >> self.unused) * self.unit
        z = self.multiply(t, t)
        sine_rest = self.multiply(t, self.horner(z, self.table("SIN")))
        sin = self.fma(t, self.rounded(6.283185307179586), sine_rest)
        cos = self.fma(z, self.horner(z, self.table("COS")), 1.0)
        return ((cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos))[quadrant % 4]

    def derive_uniform(self, dtype: str, a: float, b: float, cast: float = 0.0) -> Numbers:
        """Where the values begin, over what width they go, and the largest of them."""
        held = self if cast == 1 else FORMATS[dtype]
        low, high = held.rounded(self.rounded(a)), held.rounded(self.rounded(b))
        if held is FORMATS["float16"]:
            low += 0.0  # turns -0 into +0, an exception of the text
        return self.rounded(a), self.rounded(b - a), max(held.below(high), low)

    def uniform(self, word: int, shift: float, width: float, top: float) -> float:
        return min(top, self.fma(self.rounded(word >> self.unused) * self.unit, width, shift))

    def normal(self, even_word: int, odd_word: int, odd: int, mean: float, std: float) -> float:
        radius = self.root(self.minus_two_log(even_word))
        deviate = self.multiply(radius, self.cos_sin(odd_word)[odd])
        return self.fma(deviate, self.rounded(std), self.rounded(mean))

    def derive_window(self, mean: float, std: float, a: float, b: float) -> Window:
        """The window from a to b of a normal distribution."""
        alpha, beta = (a - mean) / std, (b - mean) / std
        if alpha > 1:
            probability = normal_tail(alpha) - normal_tail(beta)
        elif beta < -1:
            probability = normal_tail(-beta) - normal_tail(-alpha)
        else:
            probability = normal_centre(beta) - normal_centre(alpha)
        step = max(probability, 0.0) * self.unit
        width = self.rounded(step)
        scale = width / step if step > 0 else 1.0

        def at(end: float) -> tuple[float, float, float]:
            """The three numbers of one half of the words, the one next to this bound."""
            v = 0.0 if alpha == -beta else 2 * normal_centre(end)
            cdf, complement = normal_tail(-end) + step / 2, normal_tail(end) - step / 2
            return self.rounded(cdf), self.rounded(complement), self.rounded((v + step) * scale)

        cdf, complement, position = zip(at(alpha), at(beta), strict=True)
        return Window(cdf, complement, width, position, alpha == -beta)

    def ratio(self, q: float) -> float:
        """The quantile x over v = 2 Phi(x) - 1, of q = 1 - v^2."""
        if q >= 2.0**-8:
            t = self.root(self.root(q))
            inner = self.four_chains(self.fma(t, 1.0, -0.625), self.table("QUANTILE_CENTRAL"))
            return self.fma(self.fma(t, -1.0, 1.0), inner, self.rounded(1.2533141373155003))
        s = self.root(self.minus_log(q))  # the text's clamp at 0 is idle: q is far below 1
        name, middle = [(name, middle) for begin, name, middle in self.tail if s > float(begin)][-1]
        x = self.fma(self.rounded(float(middle)), -1.0, s)
        return self.fma(s, float.fromhex("0x1.6a09e6p+0"), self.two_chains(x, TABLES[name]))

    def q(self, word: int, window: Window) -> float:
        """4 Phi(x) Phi(-x) of the quantile x that belongs to a raw word."""
        c, half = self.centred(word), word >= self.sign
        below_x = self.fma(c, window.width, window.cdf[half])
        four_above = self.fma(c, -4.0 * window.width, 4.0 * window.complement[half])
        return self.multiply(below_x, four_above)

    def trunc_normal(self, word: int, window: Window, parameters: Numbers) -> float:
        """The element that has this raw word; the parameters are those of the window."""
        mean, std, a, b = (self.rounded(parameter) for parameter in parameters)
        counted = self.centred(word ^ self.sign if window.from_middle else word)
        v = self.fma(counted, 2.0 * window.width, window.position[word >= self.sign])
        x = self.fma(self.multiply(v, self.ratio(self.q(word, window))), std, mean)
        return max(a, min(b, x))  # of equals, zeros of both signs too, Python takes the first


SINGLE, DOUBLE = Precision(32, 23, used=32), Precision(64, 52, used=53)


def draw(
    kind: str, dtype: str, parameters: Numbers, seed: int, stream: int, start: int, count: int
) -> list[int]:
    """The bits of `count` elements from index `start` on; of kind "words", their 32-bit words."""
    precision = DOUBLE if dtype == "float64" else SINGLE
    indices = range(start, start + count)
    words = {i: precision.raw_word(seed, stream, i) for i in range(start & ~1, start + count + 1)}
    if kind == "words":
        return [words[i] for i in indices]
    if kind == "constant":
        values = [precision.rounded(parameters[0])] * count
    elif kind == "uniform":
        uniform = precision.derive_uniform(dtype, *parameters)
        values = [precision.uniform(words[i], *uniform) for i in indices]
    elif kind == "normal":
        pairs = [(words[i & ~1], words[i | 1], i & 1) for i in indices]
        values = [precision.normal(*pair, *parameters) for pair in pairs]
    elif kind == "trunc_normal":
        window = precision.derive_window(*parameters)
        values = [precision.trunc_normal(words[i], window, parameters) for i in indices]
    else:
        raise ValueError(f"stream v1 has no distribution {kind!r}")
    return [FORMATS[dtype].encode(value) for value in values]
