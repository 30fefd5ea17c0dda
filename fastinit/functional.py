"""Functions that initialise `weight` and `bias` of one module.

Each writes the module's own `weight` by a distribution and its own `bias` by a constant, where they
exist and are not None; children are left alone. A call on its own is one fill, seeded from torch's
default generator, with streams named from `module`; inside an open plan it is recorded there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from fastinit import init
from fastinit.plan import opened

_DISTRIBUTIONS = ("uniform", "normal")


def planned(module: Any) -> AbstractContextManager[Any]:
    """`opened` for a module; for anything else, which has no parameter names, nothing."""
    return opened(module) if isinstance(module, nn.Module) else nullcontext()


def _write(module: nn.Module, write_weight: Callable[[Tensor], Tensor], bias: float) -> None:
    with planned(module):
        weight = getattr(module, "weight", None)
        if weight is not None:
            write_weight(weight)
        if getattr(module, "bias", None) is not None:
            init.constant_(module.bias, bias)  # type: ignore[arg-type]


def _check_distribution(distribution: str) -> None:
    if distribution not in _DISTRIBUTIONS:
        raise AssertionError(
            f"distribution must be one of {', '.join(map(repr, _DISTRIBUTIONS))}, "
            f"got {distribution!r}"
        )


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Weight `val`, bias `bias`."""
    _write(module, lambda weight: init.constant_(weight, val), bias)


def xavier_init(
    module: nn.Module, gain: float = 1, bias: float = 0, distribution: str = "normal"
) -> None:
    """Weight by Glorot and Bengio's rule, see `fastinit.init.xavier_normal_`.

    Args:
        module: its weight has at least two dimensions.
        gain: factor of the standard deviation.
        bias: constant for the bias.
        distribution: `"normal"` or `"uniform"`.

    Raises:
        AssertionError: another distribution.
        ValueError: a weight with fewer than two dimensions.
    """
    _check_distribution(distribution)
    write = init.xavier_uniform_ if distribution == "uniform" else init.xavier_normal_
    _write(module, lambda weight: write(weight, gain=gain), bias)


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Weight from N(mean, std^2), bias `bias`."""
    _write(module, lambda weight: init.normal_(weight, mean, std), bias)


def trunc_normal_init(
    module: nn.Module,
    mean: float = 0,
    std: float = 1,
    a: float = -2,
    b: float = 2,
    bias: float = 0,
) -> None:
    """Weight from N(mean, std^2) conditioned on [a, b], bounds in the units of the weight."""
    _write(module, lambda weight: init.trunc_normal_(weight, mean, std, a, b), bias)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Weight from U[a, b), bias `bias`."""
    _write(module, lambda weight: init.uniform_(weight, a, b), bias)


def kaiming_init(
    module: nn.Module,
    a: float = 0,
    mode: str = "fan_out",
    nonlinearity: str = "relu",
    bias: float = 0,
    distribution: str = "normal",
) -> None:
    """Weight by He's rule, see `fastinit.init.kaiming_normal_`. Note that `mode` and `nonlinearity`
    default to other values there.

    Args:
        module: its weight has at least two dimensions.
        a: negative slope, for `nonlinearity="leaky_relu"`.
        mode: `"fan_in"` or `"fan_out"`.
        nonlinearity: what follows, usually `"relu"` or `"leaky_relu"`.
        bias: constant for the bias.
        distribution: `"normal"` or `"uniform"`.

    Raises:
        AssertionError: another distribution.
        ValueError: a weight with fewer than two dimensions, an unknown mode or nonlinearity.
    """
    _check_distribution(distribution)
    write = init.kaiming_uniform_ if distribution == "uniform" else init.kaiming_normal_
    _write(module, lambda weight: write(weight, a=a, mode=mode, nonlinearity=nonlinearity), bias)


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """What Caffe2 calls XavierFill: U[-bound, bound), bound = sqrt(3 / fan_in)."""
    kaiming_init(
        module,
        a=1,
        mode="fan_in",
        nonlinearity="leaky_relu",
        bias=bias,
        distribution="uniform",
    )


def bias_init_with_prob(prior_prob: float) -> float:
    """The bias whose sigmoid is `prior_prob`: -log((1 - p) / p).

    Outside (0, 1) there is none: 1 gives infinity, more than 1 NaN, with a warning.

    Raises:
        ZeroDivisionError: `prior_prob` is 0.
    """
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
