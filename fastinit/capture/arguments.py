"""The arguments of calls that the function mode sees, parsed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastinit.capture.effects import FILLS, MOVES, Function
from fastinit.kernels.distributions import CONSTANT
from fastinit.tensors import torch_private
from fastinit.tensors.boxes import is_injective
from fastinit.tensors.storage import storage_key

Parsed = tuple[Tensor, int, tuple[Any, ...], Any]
"""A fill: (tensor, kind, parameters, generator)."""


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments, from nested lists, tuples and dictionaries too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)


def storages(value: Any) -> list[int]:
    """Return the storage keys of the strided tensors in arguments."""
    return [storage_key(t) for t in tensors(value) if t.layout is torch.strided]


def is_view(func: Function, args: tuple[Any, ...]) -> bool:
    """Whether a call of `Effect.VIEW` returns a view, and so reads no element."""
    if func is Tensor.__getitem__:
        return _is_basic_index(args[1])
    return bool(args) and args[0].is_contiguous()


def _is_basic_index(index: Any) -> bool:
    if isinstance(index, tuple):
        return all(map(_is_basic_index, index))
    if isinstance(index, bool):  # a mask: copies
        return False
    return index is None or index is Ellipsis or isinstance(index, (int, slice))


def copies_for_sure(to: Tensor, source: Any = None) -> bool:
    """Whether `to.copy_(source)` cannot raise, so that fills which it overwrites may be dropped."""
    is_graph = to.requires_grad and torch.is_grad_enabled()
    strided = isinstance(source, Tensor) and to.layout is source.layout is torch.strided
    if not strided or is_graph or to.shape != source.shape:
        return False
    is_there = to.is_meta or not source.is_meta
    return is_there and is_injective(to) and not to.is_inference()


def target_of(
    func: Function, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.device, torch.dtype, torch.memory_format] | None:
    """Return (device, dtype, memory format) that a call of `Effect.MOVE` asks for; None if it asks
    for more."""
    dtype, device, memory_format = MOVES[func], None, None
    if func is Tensor.cuda and not (args or kwargs):
        device = torch.device("cuda")
    elif func is Tensor.cpu and not (args or kwargs):
        device = torch.device("cpu")
    elif func is Tensor.to and torch_private.parse_to is not None:
        try:
            device, dtype, _, memory_format = torch_private.parse_to(*args, **kwargs)
        except (RuntimeError, TypeError):  # copy=True, or arguments that torch refuses
            return None
    elif func is Tensor.to or args or kwargs:
        return None
    if device is not None and device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device or tensor.device, dtype or tensor.dtype, memory_format or torch.preserve_format


def is_there(
    tensor: Tensor, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format
) -> bool:
    """Whether a tensor is already what a move would make of it."""
    is_in_format = memory_format is torch.preserve_format or tensor.is_contiguous(
        memory_format=memory_format
    )
    return (tensor.device, tensor.dtype) == (device, dtype) and is_in_format


def parsed_fill(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parsed | None:
    """Return the fill that a call of `Effect.FILL` asks for; None leaves the call to torch."""
    if func is Tensor.zero_:
        return (args[0], CONSTANT, (0.0,), None) if len(args) == 1 and not kwargs else None
    row = FILLS[func]
    if not kwargs and len(args) == len(row.defaults) + 1:
        return args[0], row.kind, args[1:], None
    named = dict(kwargs)
    tensor = args[0] if args else named.pop("self", None)
    generator = named.pop("generator", None)
    if (not row.is_random and generator is not None) or len(args) - 1 > len(row.defaults):
        return None
    given = dict(zip(row.defaults, args[1:], strict=False))
    if given.keys() & named.keys() or named.keys() - row.defaults.keys():
        return None
    values = tuple({**row.defaults, **given, **named}.values())
    if tensor is None or any(value is None for value in values):
        return None
    return tensor, row.kind, values, generator


def has_written(
    func: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensor: Tensor,
    before: int | None,
) -> bool:
    """Whether a call has written the tensor, whose version was `before`, if known; without one, as
    in inference mode, whether it may have."""
    if before is not None:
        return before != torch_private.version(tensor)
    name = getattr(func, "__name__", "").partition(".")[0]  # of operators before the overload
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in _READS)
    is_asked_to = "out" in kwargs or kwargs.get("inplace") or any(arg is True for arg in args)
    return bool(is_asked_to) or name.endswith("_")


_READS = ("__index__", "__int__", "__invert__")
