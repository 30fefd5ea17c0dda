"""Bounds in nasty places: uniform in [a, b) and truncated normal in [a, b], as each dtype holds a
and b."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import oracle
import pytest
import torch
from filling import Rule, dtype_name, filled, indices
from hypothesis import assume, given
from hypothesis import strategies as st

INF = math.inf
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
N = 3000

UNIFORM = [
    (0.0, 1.0),
    (-0.1, 0.1),
    (3.0, 3.0),
    (0.0, 0.0),
    (-2.5, -2.5),
    (1.0, 1.0 + 2**-10),  # one step of float16
    (1.0, 1.0 + 2**-7),  # one step of bfloat16
    (1.0, 1.0 + 2**-23),  # one step of float32, none of the 16-bit dtypes
    (1.0, 1.0 + 2**-52),  # one step of float64 only
    (1.0 - 2**-24, 1.0),
    (-1.0 - 2**-23, -1.0),
    (-1.0, -1.0 + 2**-8),
    (0.1, 0.1000001),
    (1.0, 1.003),
    (-1.003, -1.0),
    (16777215.0, 16777217.0),
    (65000.0, 65504.0),
    (-65504.0, 65504.0),
    (-1.6e38, 1.6e38),
    (0.0, 2.0**-24),  # the smallest float16
    (-(2.0**-24), 2.0**-24),
    (0.0, 2.0**-133),  # the smallest bfloat16
    (0.0, 1e-45),
    (-1e-40, 1e-40),
    (2.0**-126, 2.0**-125),
    (0.0, 5e-324),
    (-1e-310, 1e-310),
    (-1e-3, 1e3),
]


def fits(dtype: torch.dtype, *bounds: float) -> bool:
    """Whether the dtype holds the bounds without overflow."""
    return all(abs(oracle.represent(bound, dtype_name(dtype))) < INF for bound in bounds)


def check_uniform(isa: str, dtype: torch.dtype, a: float, b: float, seed: int, n: int) -> None:
    """In [a, b) after rounding, or a where the dtype has no other value; and the oracle's value."""
    name = dtype_name(dtype)
    got = filled(n, dtype, Rule("uniform", (a, b)), seed, 1, isa=isa)
    low, high = oracle.represent(a, name), oracle.represent(b, name)
    values = got.double()
    assert bool((values >= low).all())
    assert bool((values < high).all()) or bool((values == low).all())
    expected = oracle.uniform(seed, 1, indices(n), name, a, b)
    working = torch.from_numpy(expected).to(torch.float64 if name == "float64" else torch.float32)
    assert bool((values == working.to(dtype).double()).all())


@pytest.mark.parametrize(
    ("dtype", "a", "b"), [(d, a, b) for d in DTYPES for a, b in UNIFORM if fits(d, a, b)]
)
def test_uniform_is_exact_and_below_b(isa: str, dtype: torch.dtype, a: float, b: float) -> None:
    check_uniform(isa, dtype, a, b, seed=1, n=N)


@given(
    a=st.floats(-1e4, 1e4),
    width=st.one_of(st.floats(0, 1e4), st.floats(0, 1e-3), st.floats(0, 1e-38)),
    seed=st.integers(0, 2**64 - 1),
)
def test_uniform_is_exact_and_below_b_anywhere(
    isa: str, dtype: torch.dtype, a: float, width: float, seed: int
) -> None:
    check_uniform(isa, dtype, a, a + width, seed, n=200)


@given(exponent=st.integers(-14, 14), steps=st.integers(1, 4), seed=st.integers(0, 2**64 - 1))
def test_uniform_of_a_few_steps_gives_each_value(
    isa: str, dtype: torch.dtype, exponent: int, steps: int, seed: int
) -> None:
    a = 2.0**exponent
    b = a * (1 + steps * torch.finfo(dtype).eps)
    got = filled(400, dtype, Rule("uniform", (a, b)), seed, 1, isa=isa).double()
    assert len(got.unique()) == steps


def test_a_uniform_whose_width_overflows_is_refused_or_right(isa: str) -> None:
    rule = Rule("uniform", (-1.7e308, 1.7e308))
    try:
        got = filled(N, torch.float64, rule, isa=isa)
    except ValueError:
        return
    assert bool(((got >= -1.7e308) & (got < 1.7e308)).all())
    assert abs(float((got / 1.7e308).mean())) < 5 / math.sqrt(3 * N)


TRUNCATED = [  # mean, std, a, b
    (0.0, 1.0, -2.0, 2.0),
    (0.0, 0.02, -2.0, 2.0),
    (0.0, 0.02, -0.04, 0.04),
    (0.0, 1.0, 2.0, 4.0),
    (0.0, 1.0, 5.0, 6.0),
    (0.0, 1.0, -6.0, -5.0),
    (0.0, 1.0, 8.0, 9.0),
    (0.0, 1.0, -9.0, -8.0),
    (0.0, 1.0, -10.0, 10.0),
    (0.0, 1.0, -INF, INF),
    (0.0, 1.0, -INF, -3.0),
    (0.0, 1.0, 3.0, INF),
    (0.0, 1.0, 0.0, INF),
    (0.0, 1.0, 1.0, 1.0),
    (0.0, 1.0, 0.1, 0.1),
    (0.0, 1.0, 1.0, 1.0 + 2**-52),
    (0.0, 1.0, 1.0, 1.0 + 2**-23),
    (0.0, 1.0, 0.1, 0.1003),
    (0.0, 1.0, -1.003, 1.003),
    (0.0, 1.0, -1e-3, 1e-3),
    (0.0, 1.0, 3.0, 3.001),
    (5.0, 1.0, -1.0, 1.0),
    (100.0, 20.0, 0.0, 50.0),
    (0.0, 1e30, -1.0, 1.0),
    (0.0, 1e-30, -1.0, 1.0),
    (0.0, 1e-40, -1.0, 1.0),
    (0.0, 1e-40, -1e-40, 2e-40),
    (0.3, 1e-12, 0.2, 0.4),
    (0.0, 1e4, -60000.0, 65504.0),
    (0.0, 1e38, -2e38, 3e38),
    (-0.05, 0.02, -0.1, 0.0),
]


@pytest.mark.parametrize(
    ("dtype", "rule"),
    [(d, r) for d in DTYPES for r in TRUNCATED if fits(d, *(x for x in r if abs(x) < INF))],
)
def test_truncated_normal_stays_within_its_bounds(
    isa: str, dtype: torch.dtype, rule: tuple[float, float, float, float]
) -> None:
    a, b = rule[2:]
    name = dtype_name(dtype)
    got = filled(100_000, dtype, Rule("trunc_normal", rule), 3, 4, isa=isa).double()
    assert bool((got >= oracle.represent(a, name)).all())
    assert bool((got <= oracle.represent(b, name)).all())
    if a == b:
        assert bool((got == oracle.represent(a, name)).all())


@pytest.mark.parametrize("distance", [12.0, 20.0, 35.0, 40.0, 100.0, 1e30])
@pytest.mark.parametrize("side", [1, -1])
def test_a_truncation_far_out_is_right_or_refused(
    isa: str, dtype: torch.dtype, distance: float, side: int
) -> None:
    a, b = sorted((side * distance, side * (distance + 1.0)))
    try:
        got = filled(200, dtype, Rule("trunc_normal", (0.0, 1.0, a, b)), 3, 4, isa=isa)
    except ValueError:
        return
    expected = oracle.trunc_normal(3, 4, indices(200), dtype_name(dtype), 0.0, 1.0, a, b)
    eps = torch.finfo(dtype).eps
    assert np.allclose(got.double().numpy(), expected, rtol=6 * eps, atol=0.0)


@given(
    mean=st.floats(-3, 3),
    std=st.floats(0.01, 10),
    a=st.floats(-5, 5),
    width=st.one_of(st.floats(0, 5), st.floats(0, 1e-3)),
    seed=st.integers(0, 2**64 - 1),
)
def test_truncated_normal_anywhere(
    isa: str, dtype: torch.dtype, mean: float, std: float, a: float, width: float, seed: int
) -> None:
    name, b = dtype_name(dtype), a + width
    assume(max(a - mean, mean - b) < 9 * std)
    got = filled(200, dtype, Rule("trunc_normal", (mean, std, a, b)), seed, 1, isa=isa)
    low, high = oracle.represent(a, name), oracle.represent(b, name)
    assert bool(((got.double() >= low) & (got.double() <= high)).all())
    expected = oracle.trunc_normal(seed, 1, indices(200), name, mean, std, a, b)
    eps = torch.finfo(dtype).eps
    slack = 8 * eps * np.maximum(np.abs(expected), max(abs(mean), std))
    assert bool((np.abs(got.double().numpy() - expected) <= slack).all())


@pytest.mark.parametrize("half", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_a_narrow_truncation_is_filled_evenly(isa: str, dtype: torch.dtype, half: float) -> None:
    rule = (0.0, 1.0, -half, half)
    got = filled(100, dtype, Rule("trunc_normal", rule), 3, 4, isa=isa).tolist()
    # What is left of the two halves' difference after Phi has been rounded to double, in sigmas.
    residue = 4e-16
    eps = torch.finfo(dtype).eps
    for element, value in enumerate(got):
        truth = oracle.exact_trunc_normal(3, 4, element, dtype_name(dtype), *rule)
        slack = max(4 * eps * half, residue, eps * torch.finfo(dtype).smallest_normal)
        assert abs(mpmath.mpf(value) - truth) <= slack
