"""A rule of initialisation as data: how torch.nn.init spells it, and the moments that it promises.

Because `fastinit.init` has the names and arguments of `torch.nn.init`, one `Rule` drives both, and
its moments let every benchmark check that what was timed was also right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.lib.timing import use_threads

CHUNK = 1 << 18  # elements summed in the tensor's own precision before going on in double


class Moments(NamedTuple):
    """Mean, standard deviation and kurtosis (fourth central moment over the squared variance)."""

    mean: float
    std: float
    kurtosis: float


@dataclass(frozen=True)
class Rule:
    """One function of torch.nn.init with its arguments, e.g. `Rule("normal_", {"std": 0.02})`."""

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        listed = ", ".join(f"{key}={_short(value)}" for key, value in self.arguments.items())
        return f"{self.function}({listed})"

    def apply(self, namespace: Any, tensor: Tensor) -> None:
        """Fills `tensor` by the function of `namespace`: torch.nn.init or fastinit.init."""
        getattr(namespace, self.function)(tensor, **self.arguments)

    def moments(self, tensor: Tensor) -> Moments:
        """What the rule promises for a tensor of this shape; ValueError for other functions."""
        given = self.arguments
        if self.function == "constant_":
            return Moments(float(given["val"]), 0.0, 1.0)
        if self.function == "uniform_":
            low, high = given.get("a", 0.0), given.get("b", 1.0)
            return Moments((low + high) / 2, (high - low) / math.sqrt(12), 9 / 5)
        if self.function == "normal_":
            return Moments(given.get("mean", 0.0), given.get("std", 1.0), 3.0)
        if self.function == "trunc_normal_":
            return _trunc_normal_moments(
                given.get("mean", 0.0),
                given.get("std", 1.0),
                given.get("a", -2.0),
                given.get("b", 2.0),
            )
        fan_in, fan_out = fans(tensor)
        kurtosis = 9 / 5 if self.function.endswith("uniform_") else 3.0
        if self.function in ("kaiming_uniform_", "kaiming_normal_"):
            gain = torch.nn.init.calculate_gain(
                given.get("nonlinearity", "leaky_relu"), given.get("a", 0)
            )
            fan = fan_in if given.get("mode", "fan_in") == "fan_in" else fan_out
            return Moments(0.0, gain / math.sqrt(fan), kurtosis)
        if self.function in ("xavier_uniform_", "xavier_normal_"):
            return Moments(
                0.0, given.get("gain", 1.0) * math.sqrt(2 / (fan_in + fan_out)), kurtosis
            )
        raise ValueError(f"no moments known for torch.nn.init.{self.function}")


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of at least two dimensions, (out, in, *kernel)."""
    receptive_field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive_field, tensor.shape[0] * receptive_field


def _trunc_normal_moments(mean: float, std: float, a: float, b: float) -> Moments:
    """Exact moments of a normal distribution cut to [a, b], by the recurrence of its powers."""
    alpha, beta = (a - mean) / std, (b - mean) / std

    def density(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    mass = (math.erf(beta / math.sqrt(2)) - math.erf(alpha / math.sqrt(2))) / 2
    raw = [1.0, (density(alpha) - density(beta)) / mass]
    for power in (1, 2, 3):
        edge = alpha**power * density(alpha) - beta**power * density(beta)
        raw.append(power * raw[power - 1] + edge / mass)
    first, second, third, fourth = raw[1:]
    variance = second - first**2
    central4 = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    return Moments(mean + std * first, std * math.sqrt(variance), central4 / variance**2)


@dataclass(frozen=True)
class Check:
    """Pooled moments of tensors filled by one rule, expected and measured.

    `mean_z` and `std_z` are the deviations in standard errors: about N(0, 1) when the rule was
    followed. For a constant, whose standard error is zero, they are 0 when every element is the
    value and infinite otherwise.
    """

    elements: int
    expected_mean: float
    expected_std: float
    mean: float
    std: float
    mean_z: float
    std_z: float

    @property
    def ok(self) -> bool:
        """Whether both deviations stay within six standard errors."""
        return abs(self.mean_z) < 6 and abs(self.std_z) < 6

    def record(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {**asdict(self), "ok": self.ok}


def check(rule: Rule, tensors: Iterable[Tensor]) -> Check:
    """Measures what `rule` left in `tensors`, whose shapes (and so fans) may differ."""
    count, total, variance, fourth, square_error = 0, 0.0, 0.0, 0.0, 0.0
    expected_mean = 0.0
    for tensor in tensors:
        promised = rule.moments(tensor)
        n = tensor.numel()
        expected_mean = _as_stored(promised.mean, tensor.dtype)
        count += n
        variance += n * promised.std**2
        fourth += n * (promised.kurtosis - 1) * promised.std**4
        first, second = _sums(tensor, expected_mean)
        total += first
        square_error += second
    if count == 0:
        raise ValueError(f"{rule} was given nothing to check")
    offset = total / count
    measured_variance = max(square_error / count - offset**2, 0.0)
    return Check(
        elements=count,
        expected_mean=expected_mean,
        expected_std=math.sqrt(variance / count),
        mean=expected_mean + offset,
        std=math.sqrt(measured_variance),
        mean_z=_deviation(total, math.sqrt(variance)),
        std_z=_deviation(square_error - variance, math.sqrt(fourth)),
    )


def _sums(tensor: Tensor, centre: float) -> tuple[float, float]:
    """Sum of the deviations from `centre`, and of their squares."""
    first, second = 0.0, 0.0
    # One thread: on a busy machine several, meeting after every chunk, take three times as long.
    with use_threads(1):
        for chunk in tensor.detach().reshape(-1).split(CHUNK):
            wide = chunk if chunk.element_size() >= 4 else chunk.float()
            deviation = wide - centre if centre else wide
            first += float(deviation.sum())
            second += float(deviation.dot(deviation))
    return first, second


def _as_stored(value: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(value, dtype=torch.float64).to(dtype))


def _deviation(difference: float, standard_error: float) -> float:
    if standard_error > 0:
        return difference / standard_error
    return 0.0 if difference == 0 else math.inf


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
