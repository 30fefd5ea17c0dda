"""Functions that initialise `weight` and `bias` of one module.

Each fills the module's own `weight` from a distribution and its own `bias` with a constant, if they
exist and are not None; children are left alone. A recurrent module (RNN, LSTM, GRU and their cells)
has several of both, and fans are those of each gate's matrix. A weight that is parametrized is
written through its `right_inverse`; one that is computed otherwise is not written, with a
UserWarning. A call on its own is a plan with root `module`,
whose seed is drawn from torch's default generator; inside an open plan it is recorded there. Errors
of the arguments are those of the functions in `fastinit.init`.
"""

from __future__ import annotations

import math
import warnings

from torch import nn

from fastinit.init_cfg.layers import write_layer
from fastinit.init_cfg.writes import (
    Write,
    constant,
    kaiming,
    normal,
    trunc_normal,
    uniform,
    xavier,
)
from fastinit.warning import UnusedRuleWarning


def _write(module: nn.Module, weight: Write, bias: float) -> None:
    for name in write_layer(module, weight, constant(bias)):
        warnings.warn(
            f"the {name} of this {type(module).__name__} is computed from other parameters and was "
            "not written; write those",
            UnusedRuleWarning,
            stacklevel=3,
        )


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Fill `module.weight` with `val` and `module.bias` with `bias`."""
    _write(module, constant(val), bias)


def xavier_init(
    module: nn.Module, gain: float = 1, bias: float = 0, distribution: str = "normal"
) -> None:
    """Fill `module.weight` as Glorot and Bengio do, see `fastinit.init.xavier_normal_`.

    Args:
        module: its weight has at least two dimensions.
        gain: factor of the standard deviation.
        bias: constant for `module.bias`.
        distribution: `"normal"` or `"uniform"`.

    Raises:
        AssertionError: another distribution.
        ValueError: a weight with fewer than two dimensions.
    """
    _write(module, xavier(gain, distribution), bias)


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Fill `module.weight` from N(mean, std^2) and `module.bias` with `bias`."""
    _write(module, normal(mean, std), bias)


def trunc_normal_init(
    module: nn.Module,
    mean: float = 0,
    std: float = 1,
    a: float = -2,
    b: float = 2,
    bias: float = 0,
) -> None:
    """Fill `module.weight` from N(mean, std^2) conditioned on [a, b], bounds in the units of the
    weight and not of std, and `module.bias` with `bias`."""
    _write(module, trunc_normal(mean, std, a, b), bias)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Fill `module.weight` from U[a, b) and `module.bias` with `bias`."""
    _write(module, uniform(a, b), bias)


def kaiming_init(
    module: nn.Module,
    a: float = 0,
    mode: str = "fan_out",
    nonlinearity: str = "relu",
    bias: float = 0,
    distribution: str = "normal",
) -> None:
    """Fill `module.weight` as He et al. do, see `fastinit.init.kaiming_normal_`, where `mode` and
    `nonlinearity` have other defaults.

    Args:
        module: its weight has at least two dimensions.
        a: negative slope, for `nonlinearity="leaky_relu"`.
        mode: `"fan_in"` or `"fan_out"`.
        nonlinearity: the nonlinearity that follows, usually `"relu"` or `"leaky_relu"`.
        bias: constant for `module.bias`.
        distribution: `"normal"` or `"uniform"`.

    Raises:
        AssertionError: another distribution.
        ValueError: a weight with fewer than two dimensions, an unknown mode or nonlinearity.
    """
    _write(module, kaiming(a, mode, nonlinearity, distribution), bias)


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """Fill `module.weight` as Caffe2's XavierFill does, from U[-bound, bound) with
    bound = sqrt(3 / fan_in), and `module.bias` with `bias`. ValueError as for `kaiming_init`."""
    kaiming_init(
        module,
        a=1,
        mode="fan_in",
        nonlinearity="leaky_relu",
        bias=bias,
        distribution="uniform",
    )


def bias_init_with_prob(prior_prob: float) -> float:
    """Return the bias whose sigmoid is `prior_prob`: -log((1 - p) / p).

    Outside (0, 1) there is none: 1 gives infinity, other values give NaN, with a RuntimeWarning.

    Raises:
        ZeroDivisionError: `prior_prob` is 0.
    """
    if prior_prob == 0:
        raise ZeroDivisionError("prior_prob must be between 0 and 1, got 0: its bias is -inf")
    odds = (1 - prior_prob) / prior_prob
    if odds > 0:
        return -math.log(odds)
    bias = math.inf if odds == 0 else math.nan
    warnings.warn(
        f"no finite bias has the prior probability {prior_prob}; the bias becomes {bias}. "
        "Give a probability between 0 and 1.",
        RuntimeWarning,
        stacklevel=2,
    )
    return bias
