"""The parameters of one layer that a rule writes: weights and biases, also recurrent and computed
ones."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from fastinit import init
from fastinit.capture.opened import planned
from fastinit.init_cfg.writes import Shape, Write
from fastinit.plan.current import current, is_joined
from fastinit.plan.naming import named_as

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_RECURRENT_NAME = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?")
_JOINED = nullcontext()


class Options(NamedTuple):
    """What a rule says of layers of some classes, see `BaseInit`.

    Attributes:
        recurrent: writes `weight_hh` of recurrent layers, by default as their other weights.
        forget_bias: bias of the forget gates of LSTMs, by default as their other biases.
        is_effective: fans of convolutions are those of one group.
        keep_padding: the row `padding_idx` of an embedding becomes 0.
    """

    recurrent: Write | None = None
    forget_bias: float | None = None
    is_effective: bool = False
    keep_padding: bool = False


NO_OPTIONS = Options()


def write_layer(
    module: nn.Module, weight: Write, bias: Write, options: Options = NO_OPTIONS
) -> list[str]:
    """Write the module's own weights and biases, and return the names of those that cannot be
    written, because they are computed from other parameters.

    Raises:
        ValueError: a `weight` or `bias` that is no tensor; a forget bias without a forget gate.
    """
    with _JOINED if is_joined(module) else planned(module):
        if isinstance(module, RECURRENT):
            return _write_recurrent(module, weight, bias, options)
        ways = (("weight", weight), ("bias", bias))
        return [name for name, way in ways if not write_own(module, name, way, options)]


def _write_recurrent(module: Any, weight: Write, bias: Write, options: Options) -> list[str]:
    if options.forget_bias is not None and not isinstance(module, (nn.LSTM, nn.LSTMCell)):
        raise ValueError(f"forget_bias is for LSTMs; {type(module).__name__} has no forget gate")
    recurrent = weight if options.recurrent is None else options.recurrent
    skipped = []
    for name in own_names(module):
        if not _RECURRENT_NAME.fullmatch(name):
            continue
        is_bias = name.startswith("bias")
        way = bias if is_bias else recurrent if name.startswith("weight_hh") else weight
        if not write_own(module, name, way, options):
            skipped.append(name)
        elif is_bias and options.forget_bias is not None:
            # The two biases of a gate are added.
            value = options.forget_bias if name.startswith("bias_ih") else 0.0
            size = module.hidden_size
            with torch.no_grad():
                init.constant_(_own(module, name)[size : 2 * size], value)
    return skipped


def own_names(module: nn.Module) -> list[str]:
    """Return the names of a module's own parameters, and of those that are computed instead."""
    names = [name for name, parameter in module._parameters.items() if parameter is not None]
    if is_parametrized(module):
        names += list(module.parametrizations)  # type: ignore[arg-type]
    computed = (name for name, value in vars(module).items() if isinstance(value, Tensor))
    return [*names, *computed]


def other_parameters(module: nn.Module) -> list[str]:
    """Return the names of a module's own parameters, if no rule for layers writes any of them."""
    is_served = isinstance(getattr(module, "weight", None), Tensor) or isinstance(module, RECURRENT)
    return [] if is_served else [name for name in own_names(module) if name != "bias"]


def write_own(module: nn.Module, name: str, way: Write, options: Options) -> bool:
    """Write one parameter of a module, if it has it; False if it is computed from others."""
    tensor = _own(module, name)
    if tensor is None:
        return True
    if name not in getattr(module, "_parameters", ()):
        if isinstance(module, nn.Module) and is_parametrized(module, name):
            return _write_inverse(module, name, way, options)
        if _is_computed(module, name, tensor):
            return False
    _fill(module, name, tensor, way, options)
    return True


def _own(module: nn.Module, name: str) -> Any:
    """Return `getattr(module, name, None)`, faster for a registered parameter."""
    parameters: dict[str, Any] = getattr(module, "_parameters", {})
    if name in parameters:
        return parameters[name]
    found = getattr(module, name, None)
    if found is None or isinstance(found, Tensor):
        return found
    others = [other for other, parameter in parameters.items() if parameter is not None]
    if not others:  # a flag for what children do
        return None
    raise ValueError(
        f"its {name} is {found!r}, and not a tensor; name the parameters that the rule is for, "
        f"for example params='*.{others[0]}'"
    )


def _fill(module: nn.Module, name: str, tensor: Tensor, way: Write, options: Options) -> None:
    way(tensor, _matrix(module, name, tensor, options))
    if options.keep_padding and name == "weight":
        row = getattr(module, "padding_idx", None)
        if row is not None and isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            with torch.no_grad():
                init.zeros_(tensor[row])


def _matrix(module: Any, name: str, tensor: Tensor, options: Options) -> Shape | None:
    """Return the shape whose fans count, if it is not the tensor's own."""
    if isinstance(module, RECURRENT):
        is_gated = name.startswith(("weight_ih", "weight_hh")) and len(tensor) > module.hidden_size
        return (module.hidden_size, *tensor.shape[1:]) if is_gated else None
    if options.is_effective and name == "weight" and isinstance(module, _CONVOLUTIONS):
        first, second, *kernel = tensor.shape
        if module.transposed:
            return second, first // module.groups, *kernel
        return (first // module.groups, second, *kernel) if module.groups > 1 else None
    return None


def _write_inverse(module: nn.Module, name: str, way: Write, options: Options) -> bool:
    """Write a parametrized tensor through its right inverses; False without them."""
    chain: Any = module.parametrizations[name]  # type: ignore[index]
    if not all(hasattr(parametrization, "right_inverse") for parametrization in chain):
        return False
    plan = current()
    with torch.no_grad():
        value = torch.empty_like(getattr(module, name))
        with named_as(plan, module, name, value):
            _fill(module, name, value, way, options)
            if plan is not None:
                for original in chain.parameters(recurse=False):
                    plan.keep_from_torch(original)
            try:
                setattr(module, name, value)
            except NotImplementedError:  # not for these values
                return False
    return True


def _is_computed(module: nn.Module, name: str, tensor: Tensor) -> bool:
    """Whether what is no parameter is computed anew in each forward pass."""
    hooks = getattr(module, "_forward_pre_hooks", {}).values()  # of weight_norm, of prune
    by_hooks = {getattr(hook, key, None) for hook in hooks for key in ("name", "_tensor_name")}
    return tensor.grad_fn is not None or name in by_hooks
