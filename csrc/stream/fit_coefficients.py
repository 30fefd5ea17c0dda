"""Fit the polynomials of stream v1 and print them as `coefficients.h`.

    python csrc/stream/fit_coefficients.py > csrc/stream/coefficients.h

The header is committed: its digits are part of stream v1, and a fit made by another version of
mpmath may differ in the last one. Run this to see where they come from, or to start a stream v2.

Every function is interpolated at Chebyshev nodes with 50 digits, which is within a small factor
of the minimax polynomial, and expanded about the middle of its interval, where Horner's rule is
well conditioned. `error` in the header is the maximum of |polynomial - function|.
"""

from collections.abc import Callable

import mpmath
from mpmath import cos, erfc, erfinv, exp, expm1, log, log1p, mp, mpf, pi, sin, sqrt

mp.dps = 50
Function = Callable[[mpf], mpf]


def log1p_tail(f: mpf) -> mpf:
    """(log(1 + f) - f) / f^2."""
    return mpf(-1) / 2 if abs(f) < mpf(10) ** -20 else (log1p(f) - f) / f**2


def rounded(x: mpf, bits: int) -> mpf:
    """x as a float of so many significant bits holds it."""
    with mp.workprec(bits):
        return +x


def sin_turns(two_pi: mpf) -> Function:
    """sin(2 pi t) / t - two_pi as a function of z = t^2, t in turns.

    `two_pi` is 2 pi as the arithmetic holds it: what that lacks is in the polynomial.
    """
    return lambda z: (2 * pi if z == 0 else sin(2 * pi * sqrt(z)) / sqrt(z)) - two_pi


def cos_turns_tail(z: mpf) -> mpf:
    """(cos(2 pi t) - 1) / t^2 as a function of z = t^2, t in turns."""
    return -2 * pi**2 if z == 0 else (cos(2 * pi * sqrt(z)) - 1) / z


def quantile_ratio(w: mpf) -> mpf:
    """x / v where v = 2 Phi(x) - 1 and w = -log(1 - v^2) = -log(4 Phi(x) Phi(-x)).

    The variable is Giles' ("Approximating the erfinv function", GPU Computing Gems, 2012): it turns
    the singularities of the normal quantile at 0 and 1 into slow growth.
    """
    if w < mpf(10) ** -15:
        return sqrt(pi / 2)
    v = sqrt(-expm1(-w))
    if w < 3:
        return sqrt(mpf(2)) * erfinv(v) / v
    log_q = log(exp(-w) / (1 + v) / 2)  # log Phi(-x), without the cancellation of 1 - v
    x = sqrt(-2 * log_q)
    step = mpf(1)
    while abs(step) > mpf(10) ** -40 * x:  # Newton on log Phi(-x)
        q = erfc(x / sqrt(mpf(2))) / 2
        step = (log(q) - log_q) * q / (exp(-x * x / 2) / sqrt(2 * pi))
        x += step
    return x / v


def quantile_rise(t: mpf) -> mpf:
    """(x / v - sqrt(pi / 2)) / (1 - t) as a function of t = (1 - v^2)^(1/4).

    Smooth enough where |x| < 3.1; apart from the value at x = 0, so that rounding is least where
    relative accuracy needs it.
    """
    origin = sqrt(pi / 2)
    return origin * pi / 3 if t == 1 else (quantile_ratio(-4 * log(t)) - origin) / (1 - t)


ROOT_TWO = rounded(sqrt(mpf(2)), 24)


def quantile_deviation(s: mpf) -> mpf:
    """x / v - sqrt(2) s as a function of s = sqrt(w): small and smooth in the tail."""
    return quantile_ratio(s * s) - ROOT_TWO * s


MILLS_SCALE = mpf(4)


def mills(t: mpf) -> mpf:
    """exp(x^2 / 2) Phi(-x), x >= 0, as a function of t = (x - 4) / (x + 4) in [-1, 1]."""
    if t == 1:
        return mpf(0)
    x = MILLS_SCALE * (1 + t) / (1 - t)
    if x > 1000:
        series, term = mpf(1), mpf(1)
        for k in range(1, 12):
            term *= -(2 * k - 1) / x**2
            series += term
        return series / (x * sqrt(2 * pi))
    return exp(x * x / 2) * erfc(x / sqrt(mpf(2))) / 2


def centred(function: Function, low: mpf, high: mpf, terms: int) -> tuple[list[mpf], mpf, mpf]:
    """Coefficients in powers of (x - middle), ascending, the middle, and the maximal error."""
    middle = mpf(float((low + high) / 2))
    coefficients, error = mpmath.chebyfit(
        lambda y: function(y + middle), [low - middle, high - middle], terms, error=True
    )
    return coefficients[::-1], middle, error


def chebyshev(function: Function, terms: int) -> list[mpf]:
    """Coefficients c of sum c[k] T_k(t) on [-1, 1], c[0] already halved."""
    nodes = [cos(pi * (j + mpf(1) / 2) / terms) for j in range(terms)]
    values = [function(t) for t in nodes]
    sums = [
        2
        * mpmath.fsum(f * cos(k * pi * (j + mpf(1) / 2) / terms) for j, f in enumerate(values))
        / terms
        for k in range(terms)
    ]
    return [sums[0] / 2, *sums[1:]]


def show(name: str, comment: str, values: list[mpf], middle: mpf | None = None) -> None:
    print(f"// {comment}")
    digits = ",\n    ".join(mpmath.nstr(v, 17, min_fixed=0, max_fixed=0) for v in values)
    print(f"FASTINIT_DEVICE constexpr double {name}[] = {{\n    {digits}}};")
    if middle is not None:
        print(f"constexpr double {name}Middle = {mpmath.nstr(middle, 17)};")
    print()


def fit(
    name: str,
    comment: str,
    function: Function,
    low: mpf,
    high: mpf,
    terms: int,
    at_zero: bool = False,
) -> None:
    """Fit and print; `at_zero` expands about 0 instead of the middle."""
    if at_zero:
        coefficients, error = mpmath.chebyfit(function, [low, high], terms, error=True)
        coefficients, middle = coefficients[::-1], None
    else:
        coefficients, middle, error = centred(function, low, high, terms)
    interval = f"[{mpmath.nstr(low, 6)}, {mpmath.nstr(high, 6)}]"
    show(name, f"{comment} on {interval}, error {mpmath.nstr(error, 2)}", coefficients, middle)


def main() -> None:
    print("// Written by fit_coefficients.py; part of stream v1. Powers ascend.")
    print('#pragma once\n\n#include "target.h"\n\nnamespace fastinit::coefficients {\n')
    low, high = sqrt(mpf(1) / 2) - 1, sqrt(mpf(2)) - 1
    eighth = mpf(1) / 64  # (1/8 turn)^2
    for suffix, bits, log_terms, sin_terms, cos_terms in (
        ("32", 24, 9, 4, 4),
        ("64", 53, 22, 8, 8),
    ):
        fit(f"kLog{suffix}", "(log(1+f) - f) / f^2", log1p_tail, low, high, log_terms, at_zero=True)
        fit(
            f"kSin{suffix}",
            "sin(2 pi t) / t - 2 pi, in t^2",
            sin_turns(rounded(2 * pi, bits)),
            mpf(0),
            eighth,
            sin_terms,
            at_zero=True,
        )
        fit(
            f"kCos{suffix}",
            "(cos(2 pi t) - 1) / t^2, in t^2",
            cos_turns_tail,
            mpf(0),
            eighth,
            cos_terms,
            at_zero=True,
        )
    central = "(x / v - sqrt(pi / 2)) / (1 - t), v = 2 Phi(x) - 1, in t = (1 - v^2)^(1/4)"
    tail = "x / v - sqrt(2) s, in s = sqrt(w), w = -log(1 - v^2)"
    tail_begin = sqrt(8 * log(mpf(2)))  # 1 - v^2 = 2^-8
    fit("kQuantileCentral32", central, quantile_rise, mpf(1) / 4, mpf(1), 14)
    fit("kQuantileTail32", tail, quantile_deviation, tail_begin, mpf("4.75"), 12)
    fit("kQuantileFar32", tail, quantile_deviation, mpf("4.75"), mpf("9.4"), 9)
    fit("kQuantileCentral64", central, quantile_rise, mpf(1) / 4, mpf(1), 31)
    fit("kQuantileTail64", tail, quantile_deviation, tail_begin, mpf("4.25"), 22)
    fit("kQuantileDeep64", tail, quantile_deviation, mpf("4.25"), mpf("6.5"), 20)
    fit("kQuantileFar64", tail, quantile_deviation, mpf("6.5"), mpf("12.5"), 20)
    fit("kQuantileFarthest64", tail, quantile_deviation, mpf("12.5"), mpf("27"), 22)
    show(
        "kMills",
        "exp(x^2/2) Phi(-x) in Chebyshev polynomials of t = (x - 4) / (x + 4)",
        chebyshev(mills, 32),
    )
    print("}  // namespace fastinit::coefficients")


if __name__ == "__main__":
    main()
