"""The parameters of one layer that a rule writes: weights and biases, also recurrent and computed
ones."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastinit import init
from fastinit.capture.opened import planned
from fastinit.init_cfg.computed import names_of_computed, write_back
from fastinit.init_cfg.writes import Shape, Write
from fastinit.kernels.native import is_native
from fastinit.plan.current import is_joined

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
        if name.startswith("bias"):
            way = _with_forget_bias(module, name, bias, options.forget_bias)
        else:
            way = recurrent if name.startswith("weight_hh") else weight
        is_own = _RECURRENT_NAME.fullmatch(name) or name in ("weight", "bias")
        if is_own and not write_own(module, name, way, options):
            skipped.append(name)
    return skipped


def _with_forget_bias(module: Any, name: str, bias: Write, value: float | None) -> Write:
    """Return a way to write a bias of an LSTM, with that of its forget gates."""
    if value is None:
        return bias
    size = module.hidden_size
    own = value if name.startswith("bias_ih") else 0.0  # the two biases of a gate are added

    def whole(tensor: Tensor) -> None:
        bias.whole(tensor)
        with torch.no_grad():
            init.constant_(tensor[size : 2 * size], own)

    return Write(whole)


def own_names(module: nn.Module) -> list[str]:
    """Return the names of a module's own parameters, and of those that are computed instead."""
    names = [name for name, parameter in module._parameters.items() if parameter is not None]
    return [*names, *names_of_computed(module)]


def other_parameters(module: nn.Module) -> list[str]:
    """Return the names of a module's own parameters, if no rule for layers writes any of them."""
    names = own_names(module)
    is_served = (
        "weight" in names
        or isinstance(module, RECURRENT)
        or isinstance(getattr(module, "weight", None), Tensor)
    )
    return [] if is_served else [name for name in names if name != "bias"]


def write_own(module: nn.Module, name: str, way: Write, options: Options) -> bool:
    """Write one parameter of a module, if it has it; False if it is computed from others."""
    is_own = name in getattr(module, "_parameters", ())
    # Before anything reads it: a spectral norm goes a step further each time.
    if not is_own and name in names_of_computed(module):
        if write_back(module, name, lambda value: _fill(module, name, value, way, options)):
            return True
        is_computed = True
    else:
        tensor = _own(module, name)
        is_computed = not is_own and tensor is not None and tensor.grad_fn is not None
        if tensor is not None and not is_computed:
            _fill(module, name, tensor, way, options)
    if is_computed and not is_native():
        way(getattr(module, name).detach().clone())  # what is drawn next is as in mmengine
    return not is_computed


def _own(module: nn.Module, name: str) -> Any:
    """Return `getattr(module, name, None)`, faster for a registered parameter."""
    parameters: dict[str, Any] = getattr(module, "_parameters", {})
    if name in parameters:
        return parameters[name]
    found = getattr(module, name, None)
    if found is None or isinstance(found, Tensor):
        return found
    others = [other for other, parameter in parameters.items() if parameter is not None]
    is_flag = isinstance(found, (bool, int, float, str))
    if is_flag and not others:  # for what children do
        return None
    raise ValueError(
        f"its {name} is {found if is_flag else type(found).__name__}, and not a tensor; name the "
        f"parameters that the rule is for, for example params='*.{others[0] if others else name}'"
    )


def _fill(module: nn.Module, name: str, tensor: Tensor, way: Write, options: Options) -> None:
    way(tensor, _matrix(module, name, tensor, options))
    if options.keep_padding and name == "weight":
        _clear_padding(module, tensor)


def _clear_padding(module: nn.Module, weight: Tensor) -> None:
    row = getattr(module, "padding_idx", None)
    if row is not None and isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        with torch.no_grad():
            init.zeros_(weight[row])


def clear_padding(module: nn.Module) -> None:
    """Make the padding row of an embedding 0, which is tied to another layer's weight."""
    weight = getattr(module, "_parameters", {}).get("weight")
    if weight is not None:
        _clear_padding(module, weight)


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
