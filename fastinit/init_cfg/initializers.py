"""The initializers that an init_cfg names by `type`."""

from __future__ import annotations

import inspect
import os
from difflib import get_close_matches
from typing import Any

from torch import nn

from fastinit.capture.opened import planned
from fastinit.checkpoint.load import load_pretrained
from fastinit.init_cfg.base import BaseInit as BaseInit
from fastinit.init_cfg.base import FanInit, Law, credit
from fastinit.init_cfg.registry import WEIGHT_INITIALIZERS
from fastinit.init_cfg.writes import (
    Write,
    constant,
    kaiming,
    kind_of,
    normal,
    orthogonal,
    trunc_normal,
    uniform,
    xavier,
)
from fastinit.kernels.distributions import CONSTANT, NORMAL, TRUNC_NORMAL, UNIFORM, is_far
from fastinit.plan.current import initialization_of
from fastinit.plan.fan_rules import kaiming_rule, xavier_rule


@WEIGHT_INITIALIZERS.register_module(name="Constant")
class ConstantInit(BaseInit):
    """An initializer that fills weights with `val`.

    Args:
        val: the constant.
        **kwargs: see `BaseInit`.
    """

    def __init__(self, val: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val = val

    def _write(self) -> Write:
        return constant(self.val)

    def _law(self) -> Law | None:
        return CONSTANT, (self.val,), None

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: val={self.val}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Xavier")
class XavierInit(FanInit):
    """An initializer that fills weights as Glorot and Bengio do, see `xavier_init`.

    Args:
        gain: factor of the standard deviation.
        distribution: `"normal"` or `"uniform"`.
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.
    """

    def __init__(self, gain: float = 1, distribution: str = "normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = gain
        self.distribution = distribution

    def _write(self) -> Write:
        return xavier(self.gain, self.distribution)

    def _law(self) -> Law | None:
        kind = kind_of(self.distribution)
        return None if kind is None else (kind, (), xavier_rule(kind, self.gain))

    def _get_init_info(self) -> str:
        return (
            f"{type(self).__name__}: gain={self.gain}, distribution={self.distribution}, "
            f"bias={self.bias}"
        )


@WEIGHT_INITIALIZERS.register_module(name="Normal")
class NormalInit(BaseInit):
    """An initializer that fills weights from N(mean, std^2).

    Args:
        mean: mean of the distribution.
        std: its standard deviation.
        **kwargs: see `BaseInit`.
    """

    def __init__(self, mean: float = 0, std: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.std = std

    def _write(self) -> Write:
        return normal(self.mean, self.std)

    def _law(self) -> Law | None:
        return NORMAL, (self.mean, self.std), None

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: mean={self.mean}, std={self.std}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="TruncNormal")
class TruncNormalInit(BaseInit):
    """An initializer that fills weights from N(mean, std^2) conditioned on [a, b].

    Args:
        mean: mean of the normal distribution, before truncation.
        std: its standard deviation.
        a: lower bound, in the units of the weights, not of std.
        b: upper bound, likewise.
        **kwargs: see `BaseInit`.
    """

    def __init__(
        self, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.std = std
        self.a = a
        self.b = b

    def _write(self) -> Write:
        return trunc_normal(self.mean, self.std, self.a, self.b)

    def _law(self) -> Law | None:
        parameters = (self.mean, self.std, self.a, self.b)
        if not all(isinstance(value, (int, float)) for value in parameters):
            return None  # which the first layer that is written raises
        if is_far(*parameters):  # which every layer warns of
            return None
        return TRUNC_NORMAL, parameters, None

    def _get_init_info(self) -> str:
        return (
            f"{type(self).__name__}: a={self.a}, b={self.b}, mean={self.mean}, std={self.std}, "
            f"bias={self.bias}"
        )


@WEIGHT_INITIALIZERS.register_module(name="Uniform")
class UniformInit(BaseInit):
    """An initializer that fills weights from U[a, b).

    Args:
        a: lower bound, included.
        b: upper bound, excluded.
        **kwargs: see `BaseInit`.
    """

    def __init__(self, a: float = 0, b: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a = a
        self.b = b

    def _write(self) -> Write:
        return uniform(self.a, self.b)

    def _law(self) -> Law | None:
        return UNIFORM, (self.a, self.b), None

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: a={self.a}, b={self.b}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Kaiming")
class KaimingInit(FanInit):
    """An initializer that fills weights as He et al. do, see `kaiming_init`.

    Args:
        a: negative slope, for `nonlinearity="leaky_relu"`.
        mode: `"fan_in"` or `"fan_out"`.
        nonlinearity: the nonlinearity that follows, usually `"relu"` or `"leaky_relu"`.
        distribution: `"normal"` or `"uniform"`.
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.
    """

    def __init__(
        self,
        a: float = 0,
        mode: str = "fan_out",
        nonlinearity: str = "relu",
        distribution: str = "normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.a = a
        self.mode = mode
        self.nonlinearity = nonlinearity
        self.distribution = distribution

    def _write(self) -> Write:
        return kaiming(self.a, self.mode, self.nonlinearity, self.distribution)

    def _law(self) -> Law | None:
        kind = kind_of(self.distribution)
        if kind is None:
            return None
        return kind, (), kaiming_rule(kind, self.a, self.mode, self.nonlinearity)

    def _get_init_info(self) -> str:
        # The space before the equals sign is part of a format that other code parses.
        return (
            f"{type(self).__name__}: a={self.a}, mode={self.mode}, "
            f"nonlinearity={self.nonlinearity}, distribution ={self.distribution}, bias={self.bias}"
        )


@WEIGHT_INITIALIZERS.register_module(name="Caffe2Xavier")
class Caffe2XavierInit(KaimingInit):
    """An initializer that fills weights as Caffe2's XavierFill does, see `caffe2_xavier_init`.

    Args:
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            a=1, mode="fan_in", nonlinearity="leaky_relu", distribution="uniform", **kwargs
        )


@WEIGHT_INITIALIZERS.register_module(name="Orthogonal")
class OrthogonalInit(BaseInit):
    """An initializer that makes weights orthogonal, see `fastinit.init.orthogonal_`; of a recurrent
    layer each gate's matrix. mmengine has none.

    Args:
        gain: factor of the matrix.
        **kwargs: see `BaseInit`.
    """

    def __init__(self, gain: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = gain

    def _write(self) -> Write:
        return orthogonal(self.gain)

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: gain={self.gain}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Pretrained")
class PretrainedInit:
    """An initializer that loads parameters and buffers from a checkpoint.

    A call raises the errors of `fastinit.checkpoint.load.load_pretrained`, which loads it, and
    documents all arguments.

    Args:
        checkpoint: a path or URL.
        prefix: load the entries below this name only, for example `"backbone"`.
        map_location: as for `torch.load`.
        **options: `key`, `revise_keys`, `strict`, `interpolate_pos_embed`, `adapt_input_conv` and
            `checkpoint_sha256`, which mmengine does not have.

    Raises:
        TypeError: another option, or a `checkpoint` that is no path.
    """

    def __init__(
        self, checkpoint: str, prefix: str | None = None, map_location: Any = "cpu", **options: Any
    ) -> None:
        if not isinstance(checkpoint, (str, os.PathLike)):
            raise TypeError(f"checkpoint must be a path or a URL, got {checkpoint!r}")
        known = [name for name, p in _LOADING.items() if p.kind is p.KEYWORD_ONLY]
        for name in options:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise TypeError(f"Pretrained takes no {name!r}{hint} It takes {', '.join(known)}")
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location
        self.options = options

    def __call__(self, module: nn.Module) -> None:
        with planned(module):
            load_pretrained(module, self.checkpoint, self.prefix, self.map_location, **self.options)
            credit(module, self._get_init_info())

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: load from {self.checkpoint}"


_LOADING = inspect.signature(load_pretrained).parameters


def update_init_info(module: nn.Module, init_info: str) -> None:
    """Credit a text with the parameters of `module` that were written since the last such credit.

    Custom code calls it inside `init_weights`, for a text of its own in the report.

    Args:
        module: part of the module whose `init_weights` is running.
        init_info: the text.

    Raises:
        AssertionError: no running `init_weights` covers `module`, or one of its parameters was
            added or replaced since `init_weights` began.
    """
    initialization = initialization_of(module)
    if initialization is None:
        raise AssertionError(
            f"{type(module).__name__} is not part of a module whose `init_weights` is running; "
            "call update_init_info from there, or not at all"
        )
    initialization.update(module, init_info)
