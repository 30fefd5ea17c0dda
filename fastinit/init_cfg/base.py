"""The base of the initializers: which layers one writes, its bias, and its call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from torch import nn

from fastinit.capture.opened import planned
from fastinit.init_cfg.functions import bias_init_with_prob
from fastinit.init_cfg.unmatched import note_unmatched
from fastinit.kernels.native import _C
from fastinit.plan.current import as_origin, initialization_of
from fastinit.plan.records import FanRule


class BaseInit:
    """An initializer: called with a module, it writes the layers in it that `layer` selects.

    A subclass defines `init_layer`, or `__call__` to do everything itself.

    Args:
        bias: constant for biases, by default 0.
        bias_prob: prior probability, in place of `bias`: the bias is the one whose sigmoid this is.
        layer: a class name or a list of them. A layer is selected if its class, or a direct base
            class of its class, has one of these names. None, the default, selects no layer.

    Attributes:
        wholemodule: every layer is selected, whatever `layer` is. Set for the rules of an override.

    Raises:
        TypeError: an argument of another type; `bias_prob` must be a float.
        ZeroDivisionError: `bias_prob` is 0.
    """

    def __init__(
        self,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: str | list[str] | None = None,
    ) -> None:
        self.wholemodule = False
        if not isinstance(bias, (int, float)):
            raise TypeError(f"bias must be a number, got {bias!r}")
        if isinstance(bias, int) and abs(bias) > sys.float_info.max:
            raise OverflowError("bias must be within the range of a float, got a larger integer")
        if bias_prob is not None and not isinstance(bias_prob, float):
            raise TypeError(f"bias_prob must be a float between 0 and 1, got {bias_prob!r}")
        if layer is not None and not isinstance(layer, (str, list)):
            raise TypeError(f"layer must be a class name or a list of them, got {layer!r}")
        self.bias = bias if bias_prob is None else bias_init_with_prob(bias_prob)
        self.layer = [layer] if isinstance(layer, str) else list(layer or ())

    def init_layer(self, module: nn.Module) -> None:
        """Write the parameters of one layer, not of its children."""
        raise NotImplementedError(f"{type(self).__name__} defines neither init_layer nor __call__")

    def __call__(self, module: nn.Module) -> None:
        """Write every selected layer in `module`, itself included.

        Raises:
            AttributeError: `module` is no module, but for example a parameter.
            ValueError, RuntimeError, ZeroDivisionError: the weight of a layer, or the arguments,
                do not suit the distribution; the message names the layer.
        """
        if not hasattr(module, "apply"):
            raise AttributeError(
                f"{type(self).__name__} initializes modules, not a {type(module).__name__}; the "
                "'name' of an override must be that of a child module"
            )
        wanted = set(self.layer)
        is_meant: dict[type, bool] = {}

        def means(layer: nn.Module) -> bool:
            kind = type(layer)
            if kind not in is_meant:
                is_meant[kind] = self.wholemodule or not wanted.isdisjoint(_class_names(kind))
            return is_meant[kind]

        def visit(layer: nn.Module) -> None:
            if not means(layer):
                return
            try:
                self.init_layer(layer)
            except (ValueError, RuntimeError, ZeroDivisionError) as error:
                if type(error) not in (ValueError, RuntimeError, ZeroDivisionError):
                    raise
                raise type(error)(self._explain(error, layer, module)) from error

        def rule() -> str:
            return f"{self._get_init_info()} of {type(module).__name__}"

        with planned(module), as_origin(rule):
            law = self._law_of_all()
            modules = None if law is None or _C is None else _C.post_order(module, is_walked)
            if law is None or modules is None:
                _apply(module, visit)
            else:
                self._fill(list(filter(means, modules)), law, visit)
            if wanted and not any(is_meant.values()):
                note_unmatched(rule(), self.layer)
            credit(module, self._get_init_info())

    # What `init_layer` does to each layer, told as a distribution, so that all layers can be filled
    # in one call; and which `init_layer` that is: a subclass may have another.
    _init_layer_of_law: Any = None

    def _law(self) -> Law | None:
        return None

    def _law_of_all(self) -> Law | None:
        is_ours = type(self).init_layer is type(self)._init_layer_of_law
        is_simple = isinstance(self.bias, float) or abs(self.bias) <= 2**53
        return self._law() if is_ours and is_simple else None

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

    def _explain(self, error: Exception, layer: nn.Module, root: nn.Module) -> str:
        name = next((name for name, module in root.named_modules() if module is layer), "")
        weight = getattr(layer, "weight", None)
        shape = f" with a weight of shape {tuple(weight.shape)}" if weight is not None else ""
        fix = (
            "choose another 'type' for this override"
            if self.wholemodule
            else f"narrow 'layer', now {self.layer}, or choose another 'type'"
        )
        return (
            f"{self._get_init_info()} does not suit {type(layer).__name__} {name!r} of "
            f"{type(root).__name__}{shape}: {error}. If arguments are right, {fix}."
        )


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
                stack.append((ahead, iter(children_of(ahead))))
            else:
                ahead.apply(visit)
        parent, children = stack[-1] if stack else (None, iter(()))
        ahead = next(children, None)
        if ahead is None and parent is not None:
            stack.pop()
            visit(parent)


def children_of(module: nn.Module) -> Iterable[nn.Module]:
    """Return what `module.children()` yields, faster."""
    kind: Any = type(module)
    if not is_walked(kind):
        return module.children()
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
