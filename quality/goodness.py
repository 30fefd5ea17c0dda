"""Tests of fit and of independence, and the family-wise criterion that judges all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats

from quality.laws import Bins, Law, comparable, neighbour, rounded_cdf

F64 = NDArray[np.float64]
ALPHA = 1e-3


@dataclass
class Family:
    """The p-values of a section, judged together: it fails if any is below ALPHA / number of tests
    (Bonferroni), which right numbers do with probability ALPHA at most, over all."""

    p: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, p: float) -> float:
        if name in self.p:
            raise ValueError(f"two tests are called {name}")
        self.p[name] = p if p >= 0 else 0.0  # NaN, too
        return p

    @property
    def threshold(self) -> float:
        return ALPHA / max(len(self.p), 1)

    @property
    def smallest(self) -> tuple[str, float]:
        return min(self.p.items(), key=lambda item: item[1])

    def failures(self) -> list[str]:
        return [f"{name}: p = {p:.1e}" for name, p in self.p.items() if p < self.threshold]

    def uniformity(self) -> float:
        """p-value of the p-values: whether, taken together, they are as evenly spread as they
        should be. Dependent tests (KS and chi-square of one sample) make it approximate."""
        return float(stats.kstest(list(self.p.values()), "uniform").pvalue)


def two_sided(lower: float, upper: float) -> float:
    """From P(X <= x) and P(X >= x): too good counts as much as too bad."""
    return min(1.0, 2.0 * min(lower, upper))


def normal_p(z: float) -> float:
    """Two-sided p-value of a standard normal statistic."""
    return float(2.0 * special.ndtr(-abs(z)))


def poisson_p(count: int, mean: float) -> float:
    """Two-sided p-value of a Poisson count."""
    return two_sided(stats.poisson.cdf(count, mean), stats.poisson.sf(count - 1, mean))


def chi_square(counts: NDArray[Any], probability: F64, least: float = 10.0) -> float:
    """Pearson's test, two-sided; neighbouring bins are pooled until each expects `least`."""
    total = int(counts.sum())
    counts, expected = pooled(counts, probability * total, least)
    if len(counts) < 2:
        return 1.0
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    law = stats.chi2(len(counts) - 1)
    return two_sided(law.cdf(statistic), law.sf(statistic))


def pooled(counts: NDArray[Any], expected: F64, least: float) -> tuple[F64, F64]:
    """Neighbouring bins joined from the left; what is left over joins the last."""
    starts, gathered = [0], 0.0
    for n, value in enumerate(expected.tolist()):
        gathered += value
        if gathered >= least:
            starts.append(n + 1)
            gathered = 0.0
    starts.pop()
    starts = starts or [0]
    return (
        np.add.reduceat(counts.astype(np.float64), starts),
        np.add.reduceat(expected, starts),
    )


def equal_chi_square(counts: NDArray[Any]) -> float:
    """Pearson's test of equally probable bins."""
    flat = counts.ravel()
    return chi_square(flat, np.full(len(flat), 1.0 / len(flat)))


def binned_chi_square(ordered: NDArray[Any], bins: Bins) -> float:
    """Pearson's test of a sorted sample."""
    below = np.searchsorted(ordered, bins.last, side="right")
    counts = np.diff(np.concatenate([[0], below, [len(ordered)]]))
    return chi_square(counts, bins.probability)


def kolmogorov_smirnov(ordered: NDArray[Any], law: Law, dtype: torch.dtype) -> float:
    """Kolmogorov and Smirnov's test of a sorted sample, rounded to `dtype`, of a rounded law.

    The two distribution functions are compared at each value seen and just below it. For a discrete
    law the p-value errs to the high side (Noether, 1963); the chi-square test beside it does not.
    """
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    values = torch.from_numpy(ordered[ends]).to(dtype)
    seen = (ends + 1) / len(ordered)
    before = np.concatenate([[0.0], seen[:-1]])
    distance = max(
        np.max(np.abs(seen - rounded_cdf(law, values))),
        np.max(np.abs(before - rounded_cdf(law, neighbour(values, -1)))),
    )
    return float(stats.kstwobign.sf(distance * math.sqrt(len(ordered))))


def ordered_sample(values: torch.Tensor) -> NDArray[Any]:
    """Sorted, as `comparable` holds it."""
    return np.sort(comparable(values))


def correlation_p(left: F64, right: F64) -> float:
    """Two-sided p-value of the sample correlation of what may be independent."""
    left, right = left - left.mean(), right - right.mean()
    r = float(left @ right / math.sqrt(float(left @ left) * float(right @ right)))
    return normal_p(r * math.sqrt(len(left)))
