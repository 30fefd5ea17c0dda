"""The tensors that the kernels can write, and the note to autograd when they do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from fastinit.kernels import cuda
from fastinit.kernels.distributions import DTYPES
from fastinit.tensors import torch_private
from fastinit.tensors.boxes import is_injective

_MAX_DIMS = 8
_STRIDED = torch.strided
_is_wrapped = torch_private.is_functorch_wrapped


def is_supported(tensor: Tensor, on_meta: bool = False) -> bool:
    """Whether the kernels can write this tensor; with `on_meta`, also one that merely lacks memory.
    All other tensors fall back to torch."""
    kind = type(tensor)
    if kind is not Parameter and kind is not Tensor and not _is_plain(kind):
        return False
    if tensor.dtype not in DTYPES:
        return False
    if not (
        tensor.is_cpu
        or (tensor.is_cuda and cuda.is_ready(tensor.get_device()))
        or (on_meta and tensor.is_meta)
    ):
        return False
    if tensor.layout is not _STRIDED or tensor.is_neg() or _is_wrapped(tensor):
        return False
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return False  # torch raises its error
    if not tensor.is_meta and tensor.data_ptr() % tensor.element_size() != 0:
        return False  # as by torch.frombuffer
    return tensor.is_contiguous() or (tensor.dim() <= _MAX_DIMS and is_injective(tensor))


@lru_cache(maxsize=256)
def _is_plain(kind: type[Tensor]) -> bool:
    """Whether a subclass of Tensor overrides no operation, and so is plain memory."""
    dispatches = kind.__torch_dispatch__ is not torch_private.disabled_dispatch
    function = getattr(kind.__torch_function__, "__func__", kind.__torch_function__)
    return not dispatches and function in _PLAIN_FUNCTIONS


_PLAIN_FUNCTIONS = (
    torch_private.disabled_function,
    getattr(Tensor.__torch_function__, "__func__", None),
)


def mark_written(tensor: Tensor) -> None:
    """Tell autograd that what it saved of this tensor is out of date."""
    if not tensor.is_inference():
        increment_version(tensor)


def mark_all_written(tensors: Sequence[Tensor]) -> None:
    """Do `mark_written` for many tensors, faster than one by one."""
    increment_version([tensor for tensor in tensors if not tensor.is_inference()])
