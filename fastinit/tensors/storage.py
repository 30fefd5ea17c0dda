"""The memory behind a tensor: its identity, and tensors over it."""

from __future__ import annotations

import torch
from torch import Tensor

from fastinit.tensors.boxes import is_injective
from fastinit.tensors.torch_private import Held
from fastinit.tensors.torch_private import storage_key as storage_key


def hold(tensor: Tensor) -> Held:
    """Keep `storage_key` from being given to other memory, without keeping the memory."""
    return Held(tensor.untyped_storage())


def over(storage: torch.UntypedStorage, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the same geometry over other memory."""
    tensor = torch.empty(0, dtype=dtype or like.dtype, device=storage.device)
    tensor.set_(storage, like.storage_offset(), like.shape, like.stride())
    return tensor


def covers(tensor: Tensor, other: Tensor) -> bool:
    """Whether writing all of `tensor` overwrites all of `other`, which shares its storage."""
    same = tensor.shape == other.shape and tensor.stride() == other.stride()
    if same and tensor.dtype == other.dtype:
        return tensor.storage_offset() == other.storage_offset()
    return covers_storage(tensor)


def covers_storage(tensor: Tensor) -> bool:
    """Whether the tensor is all of its memory, and has each element once."""
    size = tensor.numel() * tensor.element_size()
    return size == tensor.untyped_storage().nbytes() and is_injective(tensor)
