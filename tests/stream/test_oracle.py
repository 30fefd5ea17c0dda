"""The oracle itself, against published vectors, exact rational arithmetic, torch's rounding and
50-digit values."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import oracle
import pytest
import torch
from filling import indices
from hypothesis import given
from hypothesis import strategies as st

ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
BOUNDS = [
    (-2.0, 2.0),
    (2.0, 4.0),
    (-6.0, -5.0),
    (8.0, 9.0),
    (20.0, 21.0),
    (-10.0, 10.0),
    (-0.001, 0.001),
    (-math.inf, math.inf),
    (-math.inf, -3.0),
    (-1.0, math.inf),
]


@pytest.mark.parametrize(("counter", "key", "result"), ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, result: str) -> None:
    c = [int(word, 16) for word in counter.split()]
    k = [int(word, 16) for word in key.split()]
    block = np.array([c[0] | c[1] << 32], dtype=np.uint64)
    out = oracle.philox(block, c[2] | c[3] << 32, k[0] | k[1] << 32)[0]
    assert [f"{word:08x}" for word in out] == result.split()


def test_stream_ids_are_little_endian_blake2b() -> None:
    # From `printf weight | b2sum -l 64`, which prints the bytes in order.
    assert oracle.stream_id("weight").to_bytes(8, "little").hex() == "467271dc3e2ee084"


def test_float64_elements_take_pairs_of_words_high_half_first() -> None:
    block = [int(word) for word in oracle.philox(np.array([5], dtype=np.uint64), 3, 9)[0]]
    first, second = (int(k) for k in oracle.bits53(9, 3, indices(2, 10)))
    assert first == (block[0] << 32 | block[1]) >> 11
    assert second == (block[2] << 32 | block[3]) >> 11


finite32 = st.floats(-(2.0**60), 2.0**60, width=32)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8), finite32, finite32)
def test_fma32_rounds_once(x: list[int], y: float, z: float) -> None:
    words = np.array(x, dtype=np.uint32).astype(np.float32)
    got = oracle.fma32(words, np.float32(y), np.float32(z))
    for word, value in zip(words.tolist(), got.tolist(), strict=True):
        exact = Fraction(word) * Fraction(y) + Fraction(z)
        here = abs(Fraction(value) - exact)
        for towards in (-math.inf, math.inf):
            other = Fraction(float(np.nextafter(np.float32(value), np.float32(towards))))
            assert here <= abs(other - exact)
            if here == abs(other - exact):  # a tie goes to the even one
                assert int(np.float32(value).view(np.uint32)) % 2 == 0


@pytest.mark.parametrize("dtype", DTYPES)
@given(value=st.floats(allow_nan=False, min_value=-1e39, max_value=1e39))
def test_represent_rounds_as_torch_does(dtype: str, value: float) -> None:
    with np.errstate(over="ignore"):
        single = torch.tensor(np.float32(value))
    assert oracle.represent(value, dtype) == float(single.to(DTYPES[dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
@given(value=st.floats(width=16, allow_nan=False, allow_infinity=False))
def test_below_is_the_next_value_down(dtype: str, value: float) -> None:
    value = oracle.represent(value, dtype)
    expected = torch.nextafter(
        torch.tensor(value, dtype=DTYPES[dtype]), torch.tensor(-math.inf, dtype=DTYPES[dtype])
    )
    assert oracle.below(value, dtype) == float(expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normals_agree_with_fifty_digits(dtype: str) -> None:
    values = oracle.normal(1, 2, indices(200), dtype, 0.0, 1.0)
    for i, value in enumerate(values.tolist()):
        exact = oracle.exact_normal(1, 2, i, dtype, 0.0, 1.0)
        assert abs(mpmath.mpf(value) - exact) < 1e-15 * abs(exact)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_truncated_normals_agree_with_fifty_digits(dtype: str, bounds: tuple[float, float]) -> None:
    values = oracle.trunc_normal(1, 2, indices(50), dtype, 0.0, 1.0, *bounds)
    for i, value in enumerate(values.tolist()):
        exact = oracle.exact_trunc_normal(1, 2, i, dtype, 0.0, 1.0, *bounds)
        assert abs(mpmath.mpf(value) - exact) < 1e-15 * max(1.0, abs(exact))


def test_exact_quantile_inverts_the_normal_distribution() -> None:
    with mpmath.workdps(50):
        for u in ("1e-30", "0.001", "0.3", "0.5", "0.75", "0.999999"):
            x = oracle.exact_quantile(mpmath.mpf(u), -mpmath.inf, mpmath.inf)
            assert abs(mpmath.ncdf(x) - mpmath.mpf(u)) < mpmath.mpf("1e-40") * mpmath.mpf(u)
