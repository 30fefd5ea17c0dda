"""The initializers that an init_cfg names, and `initialize`, which applies an init_cfg to a module.

A rule is one dict of an init_cfg: `type` names the initializer, `layer` the classes it writes, and
`override` children with rules of their own; all other entries are arguments of the initializer.
"""

from __future__ import annotations

import copy
import warnings
from difflib import get_close_matches
from typing import Any

from torch import nn

from fastinit import init
from fastinit.capture.opened import planned
from fastinit.checkpoint.load import load_pretrained
from fastinit.init_cfg.base import BaseInit as BaseInit
from fastinit.init_cfg.base import Law, credit
from fastinit.init_cfg.functions import (
    constant_init,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)
from fastinit.init_cfg.registry import WEIGHT_INITIALIZERS
from fastinit.init_cfg.unmatched import note
from fastinit.kernels.distributions import CONSTANT, NORMAL, TRUNC_NORMAL, UNIFORM, is_far
from fastinit.plan.current import initialization_of

Rule = dict[str, Any]


def _kind(distribution: Any) -> int | None:
    if distribution == "normal":
        return NORMAL
    return UNIFORM if distribution == "uniform" else None


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

    def init_layer(self, module: nn.Module) -> None:
        constant_init(module, self.val, self.bias)

    _init_layer_of_law = init_layer

    def _law(self) -> Law | None:
        return CONSTANT, (self.val,), None

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: val={self.val}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Xavier")
class XavierInit(BaseInit):
    """An initializer that fills weights as Glorot and Bengio do, see `xavier_init`.

    Args:
        gain: factor of the standard deviation.
        distribution: `"normal"` or `"uniform"`.
        **kwargs: see `BaseInit`.
    """

    def __init__(self, gain: float = 1, distribution: str = "normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = gain
        self.distribution = distribution

    def init_layer(self, module: nn.Module) -> None:
        xavier_init(module, self.gain, self.bias, self.distribution)

    _init_layer_of_law = init_layer

    def _law(self) -> Law | None:
        kind = _kind(self.distribution)
        return None if kind is None else (kind, (), init.xavier_rule(kind, self.gain))

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

    def init_layer(self, module: nn.Module) -> None:
        normal_init(module, self.mean, self.std, self.bias)

    _init_layer_of_law = init_layer

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

    def init_layer(self, module: nn.Module) -> None:
        trunc_normal_init(module, self.mean, self.std, self.a, self.b, self.bias)

    _init_layer_of_law = init_layer

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

    def init_layer(self, module: nn.Module) -> None:
        uniform_init(module, self.a, self.b, self.bias)

    _init_layer_of_law = init_layer

    def _law(self) -> Law | None:
        return UNIFORM, (self.a, self.b), None

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: a={self.a}, b={self.b}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Kaiming")
class KaimingInit(BaseInit):
    """An initializer that fills weights as He et al. do, see `kaiming_init`.

    Args:
        a: negative slope, for `nonlinearity="leaky_relu"`.
        mode: `"fan_in"` or `"fan_out"`.
        nonlinearity: the nonlinearity that follows, usually `"relu"` or `"leaky_relu"`.
        distribution: `"normal"` or `"uniform"`.
        **kwargs: see `BaseInit`.
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

    def init_layer(self, module: nn.Module) -> None:
        kaiming_init(module, self.a, self.mode, self.nonlinearity, self.bias, self.distribution)

    _init_layer_of_law = init_layer

    def _law(self) -> Law | None:
        kind = _kind(self.distribution)
        if kind is None:
            return None
        return kind, (), init.kaiming_rule(kind, self.a, self.mode, self.nonlinearity)

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
        **kwargs: see `BaseInit`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            a=1, mode="fan_in", nonlinearity="leaky_relu", distribution="uniform", **kwargs
        )


@WEIGHT_INITIALIZERS.register_module(name="Pretrained")
class PretrainedInit:
    """An initializer that loads parameters and buffers from a file.

    A call raises the errors of `fastinit.checkpoint.load.load_pretrained`, which loads the file.

    Args:
        checkpoint: path of a .pth, .pt or .safetensors file.
        prefix: load the entries below this name only, for example `"backbone"`.
        map_location: as for `torch.load`.
    """

    def __init__(
        self, checkpoint: str, prefix: str | None = None, map_location: Any = "cpu"
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, module: nn.Module) -> None:
        with planned(module):
            load_pretrained(module, self.checkpoint, self.prefix, self.map_location)
            credit(module, self._get_init_info())

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: load from {self.checkpoint}"


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


def initialize(module: nn.Module, init_cfg: Rule | list[Rule]) -> None:
    """Apply rules to a module, in their order, in one fill.

    If anything raises, nothing that is pending is written; except inside `fused`, where it is
    written at the end of that block, and on the torch backend, where what was written stays.

    Args:
        module: any module.
        init_cfg: a rule or a list of rules; neither is modified.

    Raises:
        TypeError: `init_cfg` or an `override` is neither dict nor list, or arguments are refused.
        KeyError: a rule without `type`, or with one that is not registered.
        ValueError: an override without `name`, or with more than a `name` but without `type`.
        RuntimeError: an override whose `name` the module does not have.
        Exception: whatever the initializers raise.

    Examples:
        >>> initialize(model, dict(type="Constant", layer="Conv2d", val=1, bias=2,
        ...                        override=dict(type="Normal", name="head", std=0.01)))
    """
    if not isinstance(init_cfg, (dict, list)):
        raise TypeError(f"init_cfg must be a dict or a list of dicts, got {init_cfg!r}")
    with planned(module):
        for rule in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
            _apply(module, rule)


def _apply(module: nn.Module, rule: Rule) -> None:
    cfg = copy.deepcopy(rule)
    override = _pop(cfg, "override", "init_cfg")
    initializer = _run(module, cfg)
    if override is not None:
        cfg.pop("layer", None)
        _apply_override(module, override, cfg)
    if _is_standard(initializer) and not initializer.layer and not override:
        warnings.warn(
            f"the rule {rule} writes nothing: give it layer= or override=",
            UserWarning,
            stacklevel=3,
        )


def _run(module: nn.Module, cfg: Rule, wholemodule: bool = False) -> Any:
    initializer = WEIGHT_INITIALIZERS.build(cfg)
    if not callable(initializer):
        raise TypeError(
            f"'type' of a rule must make an initializer, which is called with a module; "
            f"{cfg['type']!r} made {initializer!r}"
        )
    initializer.wholemodule = wholemodule
    initializer(module)
    if not _is_standard(initializer):  # its own `__call__` may not have credited its text
        info = getattr(initializer, "_get_init_info", type(initializer).__name__.__str__)
        credit(module, info())
    return initializer


def _is_standard(initializer: Any) -> bool:
    return isinstance(initializer, BaseInit) and type(initializer).__call__ is BaseInit.__call__


def _apply_override(module: nn.Module, override: Any, cfg: Rule) -> None:
    """Apply the rules of an override; one with nothing but a `name` takes over the rule `cfg`."""
    if not isinstance(override, (dict, list)):
        raise TypeError(
            f"override must be a dict or a list of dicts, got {override!r} in the rule {cfg}"
        )
    for each in [override] if isinstance(override, dict) else override:
        rule = copy.deepcopy(each)
        name = _pop(rule, "name", "override")
        if name is None:
            raise ValueError(f"the override {each} needs the key 'name', that of a child module")
        if not rule:
            rule.update(cfg)
        elif "type" not in rule:
            raise ValueError(
                f"the override {each} needs the key 'type'; with nothing but 'name' it would take "
                f"over {cfg}"
            )
        if not hasattr(module, name):
            raise RuntimeError(_no_child(module, name, each))
        child = getattr(module, name)
        _run(child, rule, wholemodule=True)
        if isinstance(child, nn.Module) and next(child.parameters(), None) is None:
            note(f"the override {each}")
            warnings.warn(
                f"the override {each} writes nothing: {name!r} of {type(module).__name__} has no "
                "parameters",
                UserWarning,
                stacklevel=4,
            )


def _pop(rule: Any, key: str, where: str) -> Any:
    try:
        return rule.pop(key, None)
    except (AttributeError, TypeError) as error:
        raise type(error)(f"a list in {where} must hold dicts, but it has {rule!r}") from None


def _no_child(module: nn.Module, name: str, override: Rule) -> str:
    children = [child for child, _ in module.named_children()]
    close = get_close_matches(name, children, n=1)
    hint = f"did you mean {close[0]!r}? It" if close else "it"
    return (
        f"{type(module).__name__} has no {name!r}, which the override {override} names; {hint} has "
        f"the children {', '.join(map(repr, children)) or '(none)'}"
    )
