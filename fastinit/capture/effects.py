"""The effect of each function of torch on tensors, as far as a plan needs to know it.

`EFFECTS` is the whole table; a function that is not in it counts as `Effect.READ`. The functions of
`torch.nn.init` are not in it: `replacements.py` registers ours in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from fastinit.kernels.distributions import DISTRIBUTIONS, Distribution
from fastinit.kernels.tails import METHODS
from fastinit.tensors import torch_private

Function = Callable[..., Any]


class Effect(Enum):
    """The effect of a call on the tensors that it is given."""

    LOOK = "it reads no element; what it returns may share memory, and is pending with it"
    ALLOCATE = "it makes memory that holds nothing yet"
    MAKE = "it makes memory with values, which depend on tensors only if it is given some"
    DRAW = "it makes memory with random values, and reads no element of what it is given"
    FILL = "it writes all of its first argument by a distribution"
    TAIL = "it changes each element of its first argument alone"
    COPY = "it writes all of its first argument by the second"
    MOVE = "it moves or casts its first argument"
    CLONE = "it copies its first argument"
    VIEW = "it gives a view, which reads no element, or else a copy, which does"
    REBIND = "it puts other memory behind its first argument"
    ESCAPE = "it lets its first argument be read and written out of torch's sight"
    BACKWARD = "it runs the backward pass, which may read everything"
    READ = "it may read, and write, whatever it is given"


def named(owner: Any, names: str) -> set[Function]:
    """Return those of the functions that this torch has."""
    return {getattr(owner, name) for name in names.split() if hasattr(owner, name)}


def _getters(names: str) -> set[Function]:
    return {getattr(Tensor, name).__get__ for name in names.split() if hasattr(Tensor, name)}


_ALLOCATE = named(Tensor, "new_empty new_empty_strided") | named(
    torch, "empty empty_like empty_strided empty_permuted"
)
_OF_SHAPES = (
    "view view_as t transpose permute unsqueeze squeeze narrow select expand expand_as unflatten "
    "swapaxes swapdims movedim broadcast_to"
)
SHAPES = named(Tensor, _OF_SHAPES) | named(torch, _OF_SHAPES) | _getters("T mT")
"""Functions of `Effect.LOOK` that return a view of another shape."""

_LOOK = (
    SHAPES
    | named(
        Tensor,
        "size dim ndimension numel nelement stride storage_offset is_contiguous element_size "
        "is_floating_point is_complex is_signed is_inference is_conj is_neg get_device has_names "
        "__len__ __hash__ requires_grad_ detach register_hook new_zeros new_ones",
    )
    | _getters(
        "shape dtype device layout requires_grad grad grad_fn is_leaf data ndim itemsize nbytes "
        "names output_nr is_cuda is_cpu is_meta is_sparse is_mkldnn is_quantized "
        f"is_mps is_xpu is_nested retains_grad volatile name {torch_private.LOOKS}"
    )
    | {getattr(Tensor.requires_grad, "__set__")}  # noqa: B009 - typed as a bool
    | named(
        torch,
        "zeros_like ones_like numel is_tensor is_floating_point is_complex is_inference "
        + torch_private.PREDICATES,
    )
    # Called hundreds of times while a model is constructed.
    | ({torch_private.set_grad_enabled} - {None})
)
_MAKE = named(
    torch, "zeros ones full eye arange linspace rand randn randint randperm tensor as_tensor"
)
_DRAW = named(torch, "rand_like randn_like randint_like")
_ESCAPE = named(
    Tensor,
    "numpy __array__ data_ptr untyped_storage storage __dlpack__ share_memory_ "
    f"set_ resize_ resize_as_ {torch_private.ESCAPES}",
)
_VIEW: set[Function] = {
    Tensor.__getitem__,
    *named(Tensor, "reshape flatten ravel"),
    torch.reshape,
    torch.flatten,
}
_BACKWARD: set[Function] = {Tensor.backward, torch.autograd.grad, torch.autograd.backward}
_SET_DATA = getattr(Tensor.data, "__set__")  # noqa: B009 - typed as a Tensor

TAKES_GENERATOR = named(
    torch, "rand randn randint randperm normal bernoulli multinomial poisson binomial"
) | named(
    Tensor,
    "bernoulli bernoulli_ multinomial cauchy_ exponential_ geometric_ log_normal_ normal_ random_ "
    "uniform_",
)
"""Functions that draw from torch's default generator if they are given none."""

DRAWS_FROM_DEFAULT = named(
    torch,
    "rand_like randn_like randint_like dropout dropout_ alpha_dropout alpha_dropout_ "
    "feature_dropout feature_dropout_ feature_alpha_dropout feature_alpha_dropout_ native_dropout "
    "rrelu rrelu_ lstm gru rnn_tanh rnn_relu pca_lowrank svd_lowrank lobpcg "
    f"{torch_private.DRAWS}",
) | named(
    torch.nn.functional,
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout rrelu rrelu_ "
    "gumbel_softmax fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d "
    "fractional_max_pool3d_with_indices scaled_dot_product_attention multi_head_attention_forward",
)
"""Functions that draw from it in any case, as do those of `torch.nn.init`."""

MOVES: dict[Function, torch.dtype | None] = {
    Tensor.to: None,
    Tensor.cpu: None,
    Tensor.cuda: None,
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
    Tensor.float: torch.float32,
    Tensor.double: torch.float64,
}
"""Methods that move a tensor, or cast it to the dtype given here."""

FILLS: dict[Function, Distribution] = {
    row.method: row for row in DISTRIBUTIONS.values() if row.method
}
"""Methods of Tensor that fill it; `zero_`, which takes no arguments, is handled apart."""


def _table(groups: Iterable[tuple[Effect, Iterable[Function]]]) -> dict[Function, Effect]:
    return {function: effect for effect, functions in groups for function in functions}


EFFECTS = _table(
    [
        (Effect.LOOK, _LOOK),
        (Effect.ALLOCATE, _ALLOCATE),
        (Effect.MAKE, _MAKE),
        (Effect.DRAW, _DRAW),
        (Effect.FILL, [*FILLS, Tensor.zero_]),
        (Effect.TAIL, METHODS),
        (Effect.COPY, [Tensor.copy_]),
        (Effect.MOVE, MOVES),
        (Effect.CLONE, [Tensor.clone, torch.clone]),
        (Effect.VIEW, _VIEW),
        (Effect.REBIND, [_SET_DATA]),
        (Effect.ESCAPE, _ESCAPE),
        (Effect.BACKWARD, _BACKWARD),
    ]
)
