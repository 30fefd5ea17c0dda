"""Tensors on the meta device, without memory, in the place of others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastinit.tensors.torch_private import as_subclass_of, hooks_of


def is_meta(tensor: Tensor) -> bool:
    """Whether the tensor is on the meta device."""
    return tensor.is_meta


def on_meta(tensor: Tensor) -> Tensor:
    """Return a tensor on meta with the same shape, strides, attributes and hooks, for a parameter
    with the same class; for a DTensor a plain one of the whole shape."""
    data = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        kind = type(tensor) if issubclass(type(tensor), nn.Parameter) else nn.Parameter
        data = as_subclass_of(kind, data, tensor.requires_grad)
    attributes(tensor)(data)
    return data


def attributes(tensor: Tensor) -> Callable[[Tensor], None]:
    """Return a function that gives a tensor the attributes and hooks that `tensor` has now."""
    own, hooks = dict(vars(tensor)), hooks_of(tensor)

    def hang(target: Tensor) -> None:
        vars(target).update(own)
        for name, hook in hooks.items():
            setattr(target, name, hook)

    return hang
