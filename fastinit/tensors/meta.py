"""Tensors without memory, on the meta device, that stand for others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastinit.tensors.torch_private import as_subclass_of, hooks_of


def is_meta(tensor: Tensor) -> bool:
    """Whether the tensor has no memory."""
    return tensor.device.type == "meta"


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor or parameter of the same geometry, class, attributes and hooks without memory; a
    whole plain one for a DTensor."""
    data = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        kind = type(tensor) if issubclass(type(tensor), nn.Parameter) else nn.Parameter
        data = as_subclass_of(kind, data, tensor.requires_grad)
    attributes(tensor)(data)
    return data


def attributes(tensor: Tensor) -> Callable[[Tensor], None]:
    """What users have hung on a tensor; call it on the one that takes its place."""
    own, hooks = dict(vars(tensor)), hooks_of(tensor)

    def hang(target: Tensor) -> None:
        vars(target).update(own)
        for name, hook in hooks.items():
            setattr(target, name, hook)

    return hang
