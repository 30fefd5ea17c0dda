"""Exact laws of the distributions, and what rounding to a dtype makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from fastinit import _C

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """uniform (a, b), normal (mean, std) or truncated normal (mean, std, a, b)."""

    name: str
    kind: int
    parameters: tuple[float, ...]

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of the support."""
        if self.kind == _C.NORMAL:
            return -math.inf, math.inf
        return self.parameters[-2], self.parameters[-1]

    @cached_property
    def _window(self) -> tuple[float, float, float, float, float]:
        """mean, std, the side with the smaller tails (1: counted from the left), the tail's
        probabilities at the bounds."""
        mean, std = self.parameters[:2]
        alpha, beta = ((bound - mean) / std for bound in self.bounds)
        side = 1.0 if alpha + beta <= 0 or math.isnan(alpha + beta) else -1.0
        return mean, std, side, float(special.ndtr(side * alpha)), float(special.ndtr(side * beta))

    def cdf(self, x: F64) -> F64:
        """P(X <= x)."""
        if self.kind == _C.UNIFORM:
            a, b = self.parameters
            return np.clip((x - a) / (b - a), 0.0, 1.0)
        mean, std, side, low, high = self._window
        tail = special.ndtr(side * (x - mean) / std)
        return np.clip((tail - low) / (high - low), 0.0, 1.0)

    def quantile(self, p: F64) -> F64:
        """The x with P(X <= x) = p."""
        if self.kind == _C.UNIFORM:
            a, b = self.parameters
            return a + p * (b - a)
        mean, std, side, low, high = self._window
        z = side * special.ndtri(low + p * (high - low))
        return np.clip(mean + std * z, *self.bounds)

    def moment(self, k: int) -> float:
        """E[X^k], by Gauss and Legendre's quadrature, exact to all digits for these laws."""
        a, b = self.bounds
        if self.kind == _C.UNIFORM:
            return (b ** (k + 1) - a ** (k + 1)) / ((k + 1) * (b - a))
        mean, std, _, low, high = self._window
        a, b = max(a, mean - 12 * std), min(b, mean + 12 * std)
        node, weight = np.polynomial.legendre.leggauss(200)
        x = (a + b) / 2 + (b - a) / 2 * node
        density = np.exp(-0.5 * ((x - mean) / std) ** 2) / math.sqrt(2 * math.pi)
        return float((b - a) / 2 * weight @ (x**k * density) / (std * abs(high - low)))


def neighbour(values: torch.Tensor, direction: int) -> torch.Tensor:
    """The next number of the dtype, up (1) or down (-1)."""
    return torch.nextafter(values, torch.tensor(direction * math.inf, dtype=values.dtype))


def highest(law: Law, dtype: torch.dtype) -> torch.Tensor:
    """The largest value. What would round to a uniform's excluded b becomes the number below."""
    bound = torch.tensor(law.bounds[1], dtype=torch.float64)
    held = bound if dtype == torch.float64 else bound.float().to(dtype)
    return neighbour(held, -1) if law.kind == _C.UNIFORM else held


def rounded_cdf(law: Law, values: torch.Tensor) -> F64:
    """P(X <= value) after rounding to the dtype of the values: all that lies below half way to the
    next number."""
    edges = values.double() / 2 + neighbour(values, 1).double() / 2
    below = law.cdf(edges.numpy())
    return np.where((values >= highest(law, values.dtype)).numpy(), 1.0, below)


def rounded_moment(law: Law, dtype: torch.dtype, k: int) -> float:
    """E[X^k] after rounding. In 16 bits the grid shows at 2^30 samples (a uniform in [0, 1) of bf16
    lacks what would round to 1); in fp32 it does not."""
    if dtype.itemsize > 2:
        return law.moment(k)
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    values = patterns[patterns.isfinite()].unique()
    values = values[values <= highest(law, dtype)]
    probability = np.diff(rounded_cdf(law, values), prepend=0.0)
    return float(values.double().numpy() ** k @ probability)


@dataclass(frozen=True)
class Bins:
    """Bins of a law rounded to a dtype: bin k holds the values in (last[k - 1], last[k]], the final
    one all beyond."""

    last: NDArray[Any]
    probability: F64


NARROWEST = 256


def bins(law: Law, dtype: torch.dtype, count: int) -> Bins:
    """Up to `count` bins, as equally probable as the dtype permits, with their exact probabilities.

    A bin ends half way between two numbers of the dtype, so that rounding never crosses an end.
    fp32's grid is coarse enough to matter in far tails, and 16-bit grids everywhere. An fp32 value
    may moreover be an ulp or two from the exact one, so the bins there are made fewer until all of
    them are NARROWEST ulp wide.
    """
    last = torch.from_numpy(law.quantile(np.arange(1, count) / count)).to(dtype).unique()
    last = last[last < highest(law, dtype)]
    if dtype == torch.float32:
        ends = last.numpy()
        if np.any(np.diff(ends) < NARROWEST * np.spacing(np.abs(ends[1:]))):
            return bins(law, dtype, count // 2)
    cumulative = np.concatenate([[0.0], rounded_cdf(law, last), [1.0]])
    return Bins(comparable(last), np.diff(cumulative))


def comparable(values: torch.Tensor) -> NDArray[Any]:
    """As NumPy sorts and compares quickly: fp32 for 16-bit dtypes, which it holds exactly."""
    array: NDArray[Any] = (values if values.dtype == torch.float64 else values.float()).numpy()
    return array
