"""Fan rules: the distributions of Xavier and Kaiming, as functions of a weight's shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from fastinit.kernels.distributions import NORMAL, TRUNC_NORMAL
from fastinit.plan.records import FanRule

_NONLINEARITIES = (
    *("linear", "conv1d", "conv2d", "conv3d"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("sigmoid", "tanh", "relu", "leaky_relu", "selu"),
)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the recommended gain, a factor of the standard deviation, for a nonlinearity.

    linear, conv*, sigmoid: 1; tanh: 5/3; relu: sqrt(2); leaky_relu: sqrt(2 / (1 + slope^2)), where
    `param` is the slope, by default 0.01; selu: 3/4.

    Raises:
        ValueError: an unknown nonlinearity, or a slope that is not a number.
    """
    try:
        gain = float(torch.nn.init.calculate_gain(nonlinearity, param))  # type: ignore[arg-type]
    except ValueError as error:
        if "nonlinearity" not in str(error):
            raise
        raise ValueError(f"{error}; there are {', '.join(map(repr, _NONLINEARITIES))}") from error
    if nonlinearity != "leaky_relu":
        return gain
    slope = 0.01 if param is None else param
    return math.sqrt(2.0 / (1 + slope * slope))  # `slope**2`, as in torch, calls the platform's pow


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight of global shape (out, in, *kernel)."""
    if len(shape) < 2:
        raise ValueError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions; "
            f"this one has shape {tuple(shape)}"
        )
    receptive_field = math.prod(shape[2:])
    return shape[1] * receptive_field, shape[0] * receptive_field


def _xavier_std(shape: Sequence[int], gain: float) -> float:
    fan_in, fan_out = _fans(shape)
    return gain * math.sqrt(2.0 / float(fan_in + fan_out))


def _kaiming_std(shape: Sequence[int], a: float, mode: str, nonlinearity: str) -> float:
    if not isinstance(mode, str):
        raise TypeError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    fan = _fans(shape)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def xavier_rule(kind: int, gain: float) -> FanRule:
    """Return the parameters of Xavier's NORMAL or UNIFORM distribution as a function of shape."""
    return _around_zero(kind, lambda shape: _xavier_std(shape, gain))


def kaiming_rule(kind: int, a: float, mode: str, nonlinearity: str) -> FanRule:
    """Return the parameters of Kaiming's NORMAL or UNIFORM distribution as a function of shape."""
    return _around_zero(kind, lambda shape: _kaiming_std(shape, a, mode, nonlinearity))


# The standard deviation of a standard normal distribution within two standard deviations.
_TRUNCATED_STD = 0.87962566103423978


def scaled_rule(kind: int, std: Callable[[int, int], float]) -> FanRule:
    """Return the parameters of a distribution around zero as a function of shape.

    Args:
        kind: NORMAL or UNIFORM; or TRUNC_NORMAL, within two standard deviations of a normal
            distribution that is widened, so that what is left of it has the standard deviation.
        std: the standard deviation, by fan_in and fan_out.
    """
    if kind != TRUNC_NORMAL:
        return _around_zero(kind, lambda shape: std(*_fans(shape)))

    def fan_rule(shape: Sequence[int]) -> tuple[float, ...]:
        wide = std(*_fans(shape)) / _TRUNCATED_STD
        return 0.0, wide, -2 * wide, 2 * wide

    return fan_rule


def _around_zero(kind: int, std_of: Callable[[Sequence[int]], float]) -> FanRule:
    def fan_rule(shape: Sequence[int]) -> tuple[float, float]:
        if kind == NORMAL:
            return 0.0, std_of(shape)
        bound = math.sqrt(3.0) * std_of(shape)
        return -bound, bound

    return fan_rule
