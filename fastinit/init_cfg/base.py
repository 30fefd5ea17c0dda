"""The base of the initializers: which layers one writes, its bias, and its call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.capture.opened import planned
from fastinit.init_cfg.by_name import Taken, selected
from fastinit.init_cfg.functions import bias_init_with_prob
from fastinit.init_cfg.layers import (
    Options,
    clear_padding,
    other_parameters,
    write_layer,
    write_own,
)
from fastinit.init_cfg.registry import WEIGHT_INITIALIZERS, is_names
from fastinit.init_cfg.unmatched import note_unmatched, warn_of_others, warn_of_skipped
from fastinit.init_cfg.writes import Write, constant
from fastinit.kernels.native import _C
from fastinit.plan.current import as_origin, initialization_of
from fastinit.plan.records import FanRule


class BaseInit:
    """An initializer: called with a module, it writes the layers in it that `layer` selects.

    A subclass defines `init_layer`, or `__call__` to do everything itself.

    Args:
        bias: constant for biases, by default 0; or a rule of its own for them, without `layer`:
            `dict(type="Uniform", a=-0.1, b=0.1)`.
        bias_prob: prior probability, in place of `bias`: the bias is the one whose sigmoid this is.
        layer: a class name or a list of them. A layer is selected if its class, or a direct base
            class of its class, has one of these names. None, the default, selects no layer.
        params: in place of `layer`, a pattern or a list of patterns of parameters' names below the
            module (as for file names; `*.qkv.weight` also means a `qkv.weight` at the top). All
            parameters that match are filled from the distribution, biases too.
        recurrent: a rule of its own for `weight_hh` of recurrent layers (Saxe, McClelland and
            Ganguli, ICLR 2014, take orthogonal ones): `dict(type="Orthogonal")`.
        forget_bias: bias of the forget gates of LSTMs, in place of `bias` (Jozefowicz, Zaremba and
            Sutskever, ICML 2015, recommend 1). Of the two biases that are added, `bias_ih` has it,
            and `bias_hh` 0.
        keep_padding: the row `padding_idx` of an embedding becomes 0 again.

    The weights of recurrent layers are filled with the fans of each gate's matrix; a parametrized
    weight is written through its `right_inverse`. Names in a model's `init_cfg` that mmengine does
    not have are `params`, `recurrent`, `forget_bias`, `keep_padding`, and a rule as `bias`.

    Attributes:
        wholemodule: every layer is selected, whatever `layer` is. Set for the rules of an override.
        taken: what earlier rules with `params` have written, and this one will not; None if it is
            called by itself.

    Raises:
        TypeError: an argument of another type; `bias_prob` must be a float.
        ValueError: `params` together with what is for layers.
        ZeroDivisionError: `bias_prob` is 0.
    """

    def __init__(
        self,
        *,
        bias: float | dict[str, Any] = 0,
        bias_prob: float | None = None,
        layer: str | list[str] | None = None,
        params: str | list[str] | None = None,
        recurrent: dict[str, Any] | None = None,
        forget_bias: float | None = None,
        keep_padding: bool = False,
    ) -> None:
        self.wholemodule = False
        self.taken: Taken | None = None
        if isinstance(bias, dict) and bias_prob is not None:
            raise ValueError(f"give bias={bias!r} or bias_prob={bias_prob!r}, not both")
        if not isinstance(bias, (int, float, dict)):
            raise TypeError(f"bias must be a number, got {bias!r}")
        if isinstance(bias, int) and abs(bias) > sys.float_info.max:
            raise OverflowError("bias must be within the range of a float, got a larger integer")
        if bias_prob is not None and not isinstance(bias_prob, float):
            raise TypeError(f"bias_prob must be a float between 0 and 1, got {bias_prob!r}")
        if layer is not None and not isinstance(layer, (str, list)):
            hint = f"; write {layer.__name__!r}" if isinstance(layer, type) else ""
            raise TypeError(f"layer must be a class name or a list of them, got {layer!r}{hint}")
        if params is not None and not is_names(params):
            raise TypeError(
                f"params must be a pattern of parameters' names or a list of them, got {params!r}"
            )
        if forget_bias is not None and not isinstance(forget_bias, (int, float)):
            raise TypeError(f"forget_bias must be a number, got {forget_bias!r}")
        self.bias: Any = bias if bias_prob is None else bias_init_with_prob(bias_prob)
        self.layer = [layer] if isinstance(layer, str) else list(layer or ())
        self.params = [params] if isinstance(params, str) else list(params or ())
        self._bias = _write_of("bias", self.bias) if isinstance(self.bias, dict) else None
        self._recurrent = None if recurrent is None else _write_of("recurrent", recurrent)
        self._forget_bias = forget_bias
        self._keep_padding = keep_padding
        self._skipped: list[tuple[nn.Module, str]] = []  # of this call: what is not written
        for_layers = (layer, self._bias, recurrent, forget_bias)
        if self.params and (self.bias or any(value is not None for value in for_layers)):
            raise ValueError(
                f"params={params!r} selects parameters, and excludes layer, bias, bias_prob, "
                "recurrent and forget_bias, which are for layers; write two rules"
            )

    def init_layer(self, module: nn.Module) -> None:
        """Write the parameters of one layer, not of its children."""
        way = self._write()
        if way is None:
            raise NotImplementedError(
                f"{type(self).__name__} defines neither init_layer nor __call__"
            )
        bias = self._bias or constant(self.bias)
        skipped = write_layer(module, way, bias, self._options())
        self._skipped += [(module, name) for name in skipped]

    def __call__(self, module: nn.Module) -> None:
        """Write every selected layer in `module`, itself included.

        A UserWarning tells of weights that are computed from other parameters and have no
        `right_inverse`, of layers that `layer` names but that have neither weight nor bias, and of
        patterns in `params` that match nothing: all are left as they are.

        Raises:
            AttributeError: `module` is no module, but for example a parameter.
            ValueError, RuntimeError, ZeroDivisionError: the weight of a layer, or the arguments,
                do not suit the distribution; the message names the layer.
            TypeError: `params` of an initializer that has an `init_layer` of its own.
        """
        if not hasattr(module, "apply"):
            hint = (
                "; the 'name' of an override must be that of a child module"
                if self.wholemodule
                else "; give the module that has it, or call fastinit.init's function for it"
                if isinstance(module, Tensor)
                else ""
            )
            raise AttributeError(
                f"{type(self).__name__} initializes modules, not a {type(module).__name__}{hint}"
            )

        def rule() -> str:
            return f"{self._get_init_info()} of {type(module).__name__}"

        self._skipped.clear()
        with planned(module), as_origin(rule):
            if self.params:
                self._write_params(module, rule())
            else:
                self._write_layers(module, rule)
            credit(module, self._get_init_info())
        if self._skipped:
            warn_of_skipped(rule(), module, self._skipped)

    def _write_layers(self, module: nn.Module, rule: Callable[[], str]) -> None:
        wanted = set(self.layer)
        is_meant: dict[type, bool] = {}

        def means(layer: nn.Module) -> bool:
            kind = type(layer)
            if kind not in is_meant:
                is_meant[kind] = self.wholemodule or not wanted.isdisjoint(_class_names(kind))
                if self._is_standard and not self.wholemodule and kind.__name__ in wanted:
                    warn_of_others(rule(), module, layer, other_parameters(layer))
            return is_meant[kind]

        def visit(layer: nn.Module) -> None:
            if not means(layer):
                return
            with self._explaining(module, layer):
                self.init_layer(layer)

        law = self._law_of_all()
        modules = None if law is None or _C is None else _C.post_order(module, is_walked)
        if law is None or modules is None:
            _apply(module, visit)
        else:
            self._fill(list(filter(means, modules)), law, visit)
        if self._keep_padding:
            self._clear_padding(filter(means, module.modules()))
        if wanted and not any(is_meant.values()):
            note_unmatched(rule(), self.layer)

    def _write_params(self, module: nn.Module, rule: str) -> None:
        way = self._write()
        if way is None or not self._is_standard:
            raise TypeError(
                f"{type(self).__name__} writes layers, not single parameters; use layer in place "
                f"of params={self.params}"
            )
        taken: Taken = set() if self.taken is None else self.taken
        owners = []
        for name, owner, own_name, _ in selected(module, self.params, taken, rule):
            owners.append(owner)
            with self._explaining(module, owner, name):
                if not write_own(owner, own_name, way, self._options()):
                    self._skipped.append((owner, own_name))
        self._clear_padding(owners)

    def _clear_padding(self, layers: Iterable[nn.Module]) -> None:
        """Clear padding rows once more, for weights that other layers of the rule share."""
        for layer in layers if self._keep_padding else ():
            clear_padding(layer)

    def _options(self) -> Options:
        return Options(
            self._recurrent, self._forget_bias, self._fan_mode == "effective", self._keep_padding
        )

    @property
    def _is_standard(self) -> bool:
        return type(self).init_layer is BaseInit.init_layer

    _fan_mode = "torch"

    # The distribution, to write any one parameter; None of an initializer that only knows layers.
    def _write(self) -> Write | None:
        return None

    # The same, told so that all layers can be filled in one call.
    def _law(self) -> Law | None:
        return None

    def _law_of_all(self) -> Law | None:
        is_simple = self._bias is None and (isinstance(self.bias, float) or abs(self.bias) <= 2**53)
        is_plain = self._fan_mode == "torch" and not self._keep_padding
        return self._law() if self._is_standard and is_simple and is_plain else None

    def _fill(self, layers: list[nn.Module], law: Law, visit: Callable[[nn.Module], None]) -> None:
        """Write layers in their order; `visit` writes those that are not simple, and raises."""
        assert _C is not None
        done = 0
        while True:
            done = _C.fill_layers(layers, done, *law, float(self.bias))
            if done == len(layers):
                return
            visit(layers[done])
            done += 1

    def _get_init_info(self) -> str:
        """Return the rule in words, for the report of who wrote what."""
        return f"{type(self).__name__}, bias={self.bias}"

    @contextmanager
    def _explaining(
        self, root: nn.Module, layer: nn.Module, name: str | None = None
    ) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
            if type(error) not in (TypeError, ValueError, RuntimeError, ZeroDivisionError):
                raise
            raise type(error)(self._explain(error, root, layer, name)) from error

    def _explain(
        self, error: Exception, root: nn.Module, layer: nn.Module, name: str | None
    ) -> str:
        tensor: Any = getattr(layer, "weight" if name is None else name.rpartition(".")[2], None)
        if name is None:
            known = next((name for name, module in root.named_modules() if module is layer), "")
            where = f"{type(layer).__name__} {known!r}"
        else:
            where = f"parameter {name!r}"
        shape = (
            f" with a {'weight of ' if name is None else ''}shape {tuple(tensor.shape)}"
            if isinstance(tensor, Tensor) and not is_lazy(tensor)
            else ""
        )
        fix = (
            f"narrow 'params', now {self.params}"
            if name
            else "choose another 'type' for this override"
            if self.wholemodule
            else f"narrow 'layer', now {self.layer}, or choose another 'type'"
        )
        # Another layer helps where the shape is at fault.
        tail = f". If arguments are right, {fix}." if "dimensions" in str(error) else ""
        return (
            f"{self._get_init_info()} does not suit {where} of {type(root).__name__}{shape}: "
            f"{error}{tail}"
        )


class FanInit(BaseInit):
    """An initializer whose distribution depends on the fans of a weight.

    Args:
        fan_mode: `"torch"`, the default: fans are taken from the shape as in `torch.nn.init`, by
            which the fan_out of a convolution counts all groups, and fans of a transposed one are
            exchanged. `"effective"`: those of `nn.Conv1d` to `nn.ConvTranspose3d` are the numbers
            of inputs that one output sums over and of outputs that one input adds to, at stride 1:
            with groups g, fan_in = in / g * kernel and fan_out = out / g * kernel, transposed or
            not.
        **kwargs: see `BaseInit`.

    Raises:
        ValueError: another `fan_mode`.
    """

    def __init__(self, *, fan_mode: str = "torch", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if fan_mode not in ("torch", "effective"):
            raise ValueError(f"fan_mode must be 'torch' or 'effective', got {fan_mode!r}")
        self._fan_mode = fan_mode


_FOR_LAYERS = {
    *("layer", "params", "override", "bias", "bias_prob"),
    *("recurrent", "forget_bias", "keep_padding", "fan_mode"),
}


def _write_of(argument: str, rule: Any) -> Write:
    """Return the distribution of a rule that is an argument of another."""
    if not isinstance(rule, dict):
        raise TypeError(f"{argument} must be a rule, such as dict(type='Normal'), got {rule!r}")
    initializer = WEIGHT_INITIALIZERS.build(rule)
    way = initializer._write() if isinstance(initializer, BaseInit) else None
    if way is None or not initializer._is_standard:
        raise TypeError(f"{argument}={rule} does not tell how to write one parameter")
    if others := _FOR_LAYERS & rule.keys():
        raise ValueError(
            f"{argument}={rule} fills the one parameter; leave out {', '.join(sorted(others))}"
        )
    return way


Law = tuple[int, tuple[Any, ...], FanRule | None]
"""A distribution: its kind, and its parameters or a fan rule, see `kernels/distributions.py`."""


def _class_names(kind: type) -> list[str]:
    return [kind.__name__, *(base.__name__ for base in kind.__bases__)]


def _apply(module: nn.Module, visit: Callable[[nn.Module], None]) -> None:
    """Do what `module.apply(visit)` does, in the same order, faster and however deep."""
    stack: list[tuple[nn.Module, Iterator[nn.Module]]] = []
    ahead: nn.Module | None = module
    while ahead is not None or stack:
        if ahead is not None:
            kind: Any = type(ahead)
            if is_walked(kind) and "apply" not in vars(ahead):
                stack.append((ahead, iter(_children_of(ahead))))
            else:
                ahead.apply(visit)
        parent, children = stack[-1] if stack else (None, iter(()))
        ahead = next(children, None)
        if ahead is None and parent is not None:
            stack.pop()
            visit(parent)


def _children_of(module: nn.Module) -> list[nn.Module]:
    """Return what `module.children()` yields, faster, if `is_walked` of its class."""
    return [child for child in dict.fromkeys(module._modules.values()) if child is not None]


@lru_cache(maxsize=1 << 10)
def is_walked(kind: Any) -> bool:
    """Whether a class leaves the walk through its modules to torch."""
    names = ("apply", "children", "named_children")
    return all(getattr(kind, name) is getattr(nn.Module, name) for name in names)


def credit(module: nn.Module, init_info: str) -> None:
    """Credit `init_info` with the writes to `module`, if a running `init_weights` covers it."""
    initialization = initialization_of(module)
    if initialization is not None:
        initialization.update(module, init_info)
