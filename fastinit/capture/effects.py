"""What calls of torch's Python API do to tensors, as far as plans need to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from fastinit.kernels import fills
from fastinit.tensors.names import storage_key

Function = Callable[..., Any]


def _methods(names: str) -> set[Function]:
    return {getattr(Tensor, name) for name in names.split() if hasattr(Tensor, name)}


def _functions(names: str) -> set[Function]:
    return {getattr(torch, name) for name in names.split() if hasattr(torch, name)}


def _getters(names: str) -> set[Function]:
    return {getattr(Tensor, name).__get__ for name in names.split() if hasattr(Tensor, name)}


# Factories of memory that holds nothing yet.
UNWRITTEN: set[Function] = {
    *_methods("new_empty new_empty_strided"),
    *_functions("empty empty_like empty_strided empty_permuted"),
}
# Calls that read no element. What they return shares the storage, and is pending with it.
HARMLESS: set[Function] = (
    _methods(
        "size dim ndimension numel nelement stride storage_offset is_contiguous element_size "
        "is_floating_point is_complex is_signed is_inference is_conj is_neg get_device has_names "
        "__len__ __hash__ requires_grad_ detach view view_as t transpose permute unsqueeze squeeze "
        "narrow select expand expand_as unflatten swapaxes swapdims movedim register_hook "
        "new_empty new_zeros new_ones"
    )
    | _getters(
        "shape dtype device layout requires_grad grad grad_fn is_leaf data ndim itemsize nbytes "
        "T mT names output_nr is_cuda is_cpu is_meta is_sparse is_mkldnn is_quantized "
        "is_mps is_xpu is_nested retains_grad volatile name _base _grad"
    )
    | {getattr(Tensor.requires_grad, "__set__")}  # noqa: B009 - typed as a bool
    | _functions(
        "empty_like zeros_like ones_like rand_like randn_like numel "
        "is_tensor is_floating_point is_complex is_inference transpose permute unsqueeze "
        "squeeze narrow select t movedim swapaxes unflatten broadcast_to "
        "_has_compatible_shallow_copy_type"
    )
    | {torch._C._set_grad_enabled}  # hundreds of times in a model's construction
)
# What moves a tensor, or casts it to a dtype.
CASTS: dict[Function, torch.dtype | None] = {
    Tensor.to: None,
    Tensor.cpu: None,
    Tensor.cuda: None,
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
    Tensor.float: torch.float32,
    Tensor.double: torch.float64,
}
_VIEWS_IF_CONTIGUOUS = _methods("reshape flatten ravel") | {torch.reshape, torch.flatten}
ESCAPES = _methods(
    "numpy __array__ data_ptr untyped_storage storage _typed_storage __dlpack__ share_memory_ "
    "set_ resize_ resize_as_"
)
BACKWARD = {Tensor.backward, torch.autograd.grad, torch.autograd.backward}
SET_DATA = getattr(Tensor.data, "__set__")  # noqa: B009 - typed as a Tensor


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)


def storages(value: Any) -> list[int]:
    return [storage_key(t) for t in tensors(value) if t.layout is torch.strided]


def _is_basic_index(index: Any) -> bool:
    if isinstance(index, tuple):
        return all(map(_is_basic_index, index))
    if isinstance(index, bool):  # a mask, which copies
        return False
    return index is None or index is Ellipsis or isinstance(index, (int, slice))


def is_view(func: Function, args: tuple[Any, ...]) -> bool:
    """Whether the call gives a view, which reads no element."""
    if func is Tensor.__getitem__:
        return _is_basic_index(args[1])
    return func in _VIEWS_IF_CONTIGUOUS and bool(args) and args[0].is_contiguous()


def copies_for_sure(to: Tensor, source: Any = None) -> bool:
    """Whether `to.copy_(source)` cannot raise, so that what it overwrites may be forgotten."""
    is_graph = to.requires_grad and torch.is_grad_enabled()
    strided = isinstance(source, Tensor) and to.layout is source.layout is torch.strided
    if not strided or is_graph or to.shape != source.shape:
        return False
    is_there = to.is_meta or not source.is_meta
    return is_there and fills.is_injective(to) and not to.is_inference()


def target_of(
    func: Function, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.device, torch.dtype] | None:
    """Where one of `CASTS` puts the tensor, unless it wants more of it."""
    dtype, device = CASTS[func], None
    if func is Tensor.cuda and not (args or kwargs):
        device = torch.device("cuda")
    elif func is Tensor.cpu and not (args or kwargs):
        device = torch.device("cpu")
    elif func is Tensor.to:
        try:
            device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        except (RuntimeError, TypeError):  # a copy is asked for; or it is torch's error
            return None
        if memory_format is not None:
            return None
    elif args or kwargs:
        return None
    if device is not None and device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device or tensor.device, dtype or tensor.dtype


def _fill_normal(self: Tensor, mean: Any = 0.0, std: Any = 1.0, *, generator: Any = None) -> Any:
    return self, fills.NORMAL, (mean, std), generator


def _fill_uniform(self: Tensor, *bounds: Any, generator: Any = None, **named: Any) -> Any:
    # `from` is a keyword of Python: no parameter can be called that.
    given = dict(zip(("from", "to"), bounds, strict=False)) | named
    low, high = ({"from": 0.0, "to": 1.0} | given).values()
    return self, fills.UNIFORM, (low, high), generator


def _fill_constant(self: Tensor, value: Any) -> Any:
    return self, fills.CONSTANT, (value,), None


def _fill_zero(self: Tensor) -> Any:
    return self, fills.CONSTANT, (0.0,), None


FILLS: dict[Function, Callable[..., Any]] = {
    Tensor.normal_: _fill_normal,
    Tensor.uniform_: _fill_uniform,
    Tensor.fill_: _fill_constant,
    Tensor.zero_: _fill_zero,
}


# torch's rules by fans, by their code: however imported, they end in a fill that is seen.
BY_FANS: dict[CodeType, tuple[str, ...]] = {
    torch.nn.init.xavier_uniform_.__code__: ("gain", "generator"),
    torch.nn.init.xavier_normal_.__code__: ("gain", "generator"),
    torch.nn.init.kaiming_normal_.__code__: ("a", "mode", "nonlinearity", "generator"),
}


def version(tensor: Tensor) -> int | None:
    """Autograd's count of writes; None where it does not count."""
    return None if tensor.is_inference() else tensor._version


def has_written(func: Function, tensor: Tensor, before: int | None) -> bool:
    """Whether a call of `func` has written the tensor, whose `version` was `before`."""
    return _is_in_place(func) if before is None else before != version(tensor)


def _is_in_place(func: Function) -> bool:
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name != "__invert__")
    return name.endswith("_")
