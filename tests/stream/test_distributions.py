"""The values as samples: their distribution, moments, tails, and independence of neighbours.

Seeds are fixed, so these tests always see the same numbers; a threshold is what a right generator
would miss in one of ten thousand seeds or less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from filling import Rule, filled
from numpy.typing import NDArray
from scipy import integrate, stats

N = 1 << 20
THRESHOLD = 1e-4
SIGMAS = 4.5

CASES: dict[str, tuple[Rule, Any]] = {
    "uniform": (Rule("uniform", (-1.0, 3.0)), stats.uniform(-1.0, 4.0)),
    "uniform small": (Rule("uniform", (0.0, 0.036)), stats.uniform(0.0, 0.036)),
    "normal": (Rule("normal", (0.0, 1.0)), stats.norm()),
    "normal small": (Rule("normal", (0.01, 0.02)), stats.norm(0.01, 0.02)),
    "trunc 2 sigma": (Rule("trunc_normal", (0.0, 1.0, -2.0, 2.0)), stats.truncnorm(-2, 2)),
    "trunc wide": (
        Rule("trunc_normal", (0.0, 0.02, -2.0, 2.0)),
        stats.truncnorm(-100, 100, 0.0, 0.02),
    ),
    "trunc skewed": (
        Rule("trunc_normal", (0.5, 2.0, 0.0, 4.0)),
        stats.truncnorm(-0.25, 1.75, 0.5, 2.0),
    ),
    "trunc tail": (Rule("trunc_normal", (0.0, 1.0, 2.0, 4.0)), stats.truncnorm(2, 4)),
    "trunc far tail": (Rule("trunc_normal", (0.0, 1.0, -6.0, -5.0)), stats.truncnorm(-6, -5)),
    "trunc open": (
        Rule("trunc_normal", (0.0, 1.0, -math.inf, 0.5)),
        stats.truncnorm(-math.inf, 0.5),
    ),
}


@lru_cache(maxsize=16)
def _samples(name: str, dtype: torch.dtype, seed: int = 2024, stream: int = 7) -> torch.Tensor:
    return filled(N, dtype, CASES[name][0], seed, stream)


def ks_p_value(values: torch.Tensor, cdf: Callable[..., NDArray[np.float64]]) -> float:
    """Kolmogorov and Smirnov's test for rounded samples.

    A rounded value stands for all that rounds to it, so the empirical distribution at each value is
    compared with the true one at the upper end of what it stands for. Between those points rounding
    hides everything, which makes the test milder than for a continuous sample, never stricter.
    """
    seen, counts = torch.unique(values, return_counts=True)
    infinity = torch.tensor(math.inf, dtype=values.dtype)
    upper = (seen.double() + torch.nextafter(seen, infinity).double()) / 2
    upper[-1] = math.inf
    empirical = counts.double().cumsum(0).numpy() / len(values)
    distance = float(np.max(np.abs(empirical - cdf(upper.numpy()))))
    return float(stats.kstwobign.sf(distance * math.sqrt(len(values))))


@pytest.mark.parametrize("name", CASES)
def test_distribution(dtype: torch.dtype, name: str) -> None:
    assert ks_p_value(_samples(name, dtype), CASES[name][1].cdf) > THRESHOLD


def test_the_distribution_test_can_fail(dtype: torch.dtype) -> None:
    values = _samples("normal", dtype)
    assert ks_p_value(values, stats.norm(0.01).cdf) < THRESHOLD
    assert ks_p_value(values, stats.norm(0.0, 1.02).cdf) < THRESHOLD


@lru_cache
def _standard_moments(name: str) -> tuple[float, ...]:
    """E[((X - mean) / sd)**k] for k in 0..8, by quadrature."""
    law = CASES[name][1]
    mean, sd = float(law.mean()), float(law.std())
    low, high = (float(end) for end in law.support())
    low, high = max(low, mean - 12 * sd), min(high, mean + 12 * sd)

    def moment(k: int) -> float:
        def integrand(x: float) -> float:
            return float(((x - mean) / sd) ** k * law.pdf(x))

        return float(integrate.quad(integrand, low, high, epsabs=1e-10, limit=200)[0])

    return tuple(moment(k) for k in range(9))


@pytest.mark.parametrize("name", CASES)
def test_first_four_moments(dtype: torch.dtype, name: str) -> None:
    law = CASES[name][1]
    moments = _standard_moments(name)
    assert moments[:3] == pytest.approx((1.0, 0.0, 1.0), abs=1e-6)
    z = (_samples(name, dtype).double() - float(law.mean())) / float(law.std())
    # Rounding to the dtype may move every moment by a little, in units of sd: half a step of the
    # largest values, and half of that, and half of that ...; the square is what enters on average.
    step = torch.finfo(dtype).eps * float(_samples(name, dtype).abs().max()) / float(law.std())
    for k in range(1, 5):
        error = float((z**k).mean()) - moments[k]
        sigma = math.sqrt((moments[2 * k] - moments[k] ** 2) / N)
        assert abs(error) < SIGMAS * sigma + k * k * step**2, f"moment {k}"


@pytest.mark.parametrize("name", ["normal", "trunc wide", "trunc open"])
def test_tails(dtype: torch.dtype, name: str) -> None:
    law = CASES[name][1]
    values = _samples(name, dtype).double()
    for sigma in (3.0, 4.0):
        point = float(law.mean()) - sigma * float(law.std())
        expected = N * float(law.cdf(point))
        margin = torch.finfo(dtype).eps * abs(point) * N * float(law.pdf(point))
        seen = int((values < point).sum())
        assert abs(seen - expected) < SIGMAS * math.sqrt(expected) + margin
    extreme = float(values.min() - law.mean()) / float(law.std())
    rarest, likeliest = law.ppf(1e-4 / N), law.ppf(9.0 / N)
    assert (rarest - law.mean()) / law.std() < extreme < (likeliest - law.mean()) / law.std()


def _normalized(values: torch.Tensor) -> torch.Tensor:
    """Mean 0 and sum of squares 1."""
    centred = values - values.mean()
    return centred / torch.linalg.vector_norm(centred)


@lru_cache(maxsize=8)
def _powers(
    name: str, dtype: torch.dtype, seed: int = 2024, stream: int = 7
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sample and its squares, both normalized."""
    first = _normalized(_samples(name, dtype, seed, stream).double())
    return first, _normalized(first * first)


def assert_independent(
    left: tuple[torch.Tensor, torch.Tensor], right: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """No correlation of the two samples, nor of their squares, nor of one with the other's
    square. The coefficient of two independent samples is normal with deviation 1 / sqrt(n)."""
    for x in left:
        for y in right:
            assert abs(float(torch.dot(x, y))) < SIGMAS / math.sqrt(len(x))


@pytest.mark.parametrize("name", ["uniform", "normal", "trunc 2 sigma", "trunc tail"])
def test_neighbours_are_independent(dtype: torch.dtype, name: str) -> None:
    powers = _powers(name, dtype)
    for lag in (1, 2, 3, 4, 8, 16, 1024):
        assert_independent((powers[0][:-lag], powers[1][:-lag]), (powers[0][lag:], powers[1][lag:]))


@pytest.mark.parametrize("name", ["uniform", "normal", "trunc 2 sigma", "trunc tail"])
def test_partners_are_independent(dtype: torch.dtype, name: str) -> None:
    # Cosine and sine of one radius, for normals; lag 1 mixes them with pairs that share nothing.
    values = _samples(name, dtype).double()
    first, second = _normalized(values[0::2]), _normalized(values[1::2])
    assert_independent((first, _normalized(first * first)), (second, _normalized(second * second)))


@pytest.mark.parametrize("name", ["uniform", "normal", "trunc 2 sigma"])
@pytest.mark.parametrize(
    ("seed", "stream"),
    [(2025, 7), (2024, 8), (2024 + 2**32, 7), (2024, 7 + 2**32), (7, 2024), (2024 ^ 2**63, 7)],
)
def test_other_seeds_and_streams_are_independent(
    dtype: torch.dtype, name: str, seed: int, stream: int
) -> None:
    assert_independent(_powers(name, dtype), _powers(name, dtype, seed, stream))


def test_normals_of_a_pair_lie_on_every_angle_alike(dtype: torch.dtype) -> None:
    pairs = _samples("normal", dtype).double().view(-1, 2)
    turn = torch.atan2(pairs[:, 1], pairs[:, 0]) / (2 * math.pi) + 0.5
    counts = torch.histc(turn, bins=64, min=0.0, max=1.0).numpy()
    # Rounding to bfloat16 draws angles towards the axes and diagonals: test what symmetry keeps.
    folded = counts.reshape(8, 8).sum(axis=1) if dtype == torch.bfloat16 else counts
    assert stats.chisquare(folded).pvalue > THRESHOLD
