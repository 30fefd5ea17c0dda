"""The memory behind a tensor: its identity, and tensors over it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from fastinit.tensors.boxes import is_injective, span
from fastinit.tensors.torch_private import eager_set
from fastinit.tensors.torch_private import storage_key as storage_key


def tensor_over(
    storage: torch.UntypedStorage, like: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Return a tensor over `storage` with the shape, strides and offset of `like`."""
    tensor = torch.empty(0, dtype=dtype or like.dtype, device=storage.device)
    eager_set(tensor, storage, like.storage_offset(), like.shape, like.stride())
    return tensor


def has_memory(tensor: Tensor) -> bool:
    """Whether the storage holds all of the tensor, as it may not once it was resized."""
    if tensor.numel() == 0:
        return True
    last = int(tensor.storage_offset()) + span(tensor.shape, tensor.stride())
    return last * tensor.element_size() <= tensor.untyped_storage().nbytes()


def sharing(named: Iterable[tuple[str, Tensor]]) -> tuple[str, str] | None:
    """Return the names of two tensors that share memory and are not one object; None without."""
    extents = sorted(
        (storage_key(tensor), int(tensor.storage_offset()), number, name, tensor)
        for number, (name, tensor) in enumerate(named)
        if tensor.layout is torch.strided and type(tensor.data) is Tensor and tensor.numel() > 0
    )
    for (key, begin, _, name, one), (other_key, other_begin, _, other_name, other) in pairwise(
        extents
    ):
        is_within = other_begin < begin + span(one.shape, one.stride())
        if key == other_key and one is not other and is_within:
            return name, other_name
    return None


def covers_storage(tensor: Tensor) -> bool:
    """Whether the tensor spans all of its storage, with each element once."""
    size = tensor.numel() * tensor.element_size()
    return size == tensor.untyped_storage().nbytes() and is_injective(tensor)
