"""The plain tensors that other tensors are made of: DTensors, sparse ones, wrapper subclasses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastinit.tensors import torch_private
from fastinit.tensors.torch_private import unwatched

_OF_LAYOUT: dict[torch.layout, tuple[Callable[[Tensor], Tensor], ...]] = {
    torch.sparse_coo: torch_private.coo_parts,
    torch.sparse_csr: (Tensor.crow_indices, Tensor.col_indices, Tensor.values),
    torch.sparse_bsr: (Tensor.crow_indices, Tensor.col_indices, Tensor.values),
    torch.sparse_csc: (Tensor.ccol_indices, Tensor.row_indices, Tensor.values),
    torch.sparse_bsc: (Tensor.ccol_indices, Tensor.row_indices, Tensor.values),
}


def parts(tensor: Tensor) -> list[Tensor] | None:
    """Return the tensors of ordinary memory that a tensor is, or is made of; None if that is not
    known.

    Known are DTensors and other wrapper subclasses with `__tensor_flatten__`, sparse layouts, and
    the tensors that torch.func wraps.
    """
    with unwatched():
        return _parts(tensor)


def _parts(tensor: Tensor) -> list[Tensor] | None:
    if torch_private.is_functorch_wrapped(tensor):
        inner = torch_private.unwrapped(tensor)
        return None if inner is None else _parts(inner)
    if flatten := getattr(tensor, "__tensor_flatten__", None):
        components = [getattr(tensor, name, None) for name in flatten()[0]]
        return _all([part for part in components if isinstance(part, Tensor)])
    if type(tensor).__torch_dispatch__ is not torch_private.disabled_dispatch:
        return None
    if getters := _OF_LAYOUT.get(tensor.layout):
        return _all([getter(tensor) for getter in getters])
    is_ordinary = tensor.layout is torch.strided and not tensor.is_nested
    return [tensor] if is_ordinary else None


def _all(tensors: list[Tensor]) -> list[Tensor] | None:
    found: list[Tensor] = []
    for tensor in tensors:
        own = _parts(tensor)
        if own is None:
            return None
        found += own
    return found
