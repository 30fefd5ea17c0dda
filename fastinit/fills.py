"""Fill records, and how they reach the kernels: one table, one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinit.backend import _C

CONSTANT, UNIFORM, NORMAL, TRUNC_NORMAL = range(4)  # as in csrc/segment.h

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
_LARGEST = {dtype: torch.finfo(dtype).max for dtype in _DTYPES}
_REACH = {dtype: _C.truncation_reach(code) for dtype, code in _DTYPES.items()} if _C else {}
_MAX_DIMS = 8

Parameters = tuple[float, float, float, float]
Box = int | tuple[tuple[int, int, int], ...]


class Fill(NamedTuple):
    """One write of a whole tensor, or of a view that is a box of one."""

    tensor: Tensor
    kind: int
    parameters: Parameters
    seed: int | None  # of the call's own generator

    def describe(self) -> str:
        """The rule in words, such as `normal(mean=0.0, std=0.02)`."""
        name, fields = _WORDS[self.kind]
        values = ", ".join(f"{f}={v!r}" for f, v in zip(fields, self.parameters, strict=False))
        return f"{name}({values})"


_WORDS = (
    ("constant", ("value",)),
    ("uniform", ("a", "b")),
    ("normal", ("mean", "std")),
    ("trunc_normal", ("mean", "std", "a", "b")),
)


class Whole(NamedTuple):
    """The logical parameter that a view is indexed in."""

    name: str
    tensor: Tensor
    offset: int  # in its storage, in elements
    end: int


def whole_of(name: str, tensor: Tensor) -> Whole:
    offset = tensor.storage_offset()
    span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return Whole(name, tensor, offset, offset + span + 1)


def serves(tensor: Tensor) -> bool:
    """Whether the kernels can write this tensor. Everything else is torch's."""
    kind = type(tensor)
    if kind is not Tensor and kind is not torch.nn.Parameter and not _is_plain(kind):
        return False
    if tensor.dtype not in _DTYPES or tensor.device.type != "cpu":
        return False
    if tensor.layout is not torch.strided or tensor.is_neg():
        return False
    return tensor.is_contiguous() or (tensor.dim() <= _MAX_DIMS and _is_injective(tensor))


def _is_plain(kind: type) -> bool:
    return issubclass(kind, Tensor) and (
        kind.__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl
        and kind.__torch_function__ in (_PARAMETER_FUNCTION, Tensor.__torch_function__)
    )


_PARAMETER_FUNCTION = torch.nn.Parameter.__torch_function__


def _is_injective(tensor: Tensor) -> bool:
    extent = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= extent:
                return False
            extent += (size - 1) * stride
    return True


def valid_parameters(dtype: torch.dtype, kind: int, p: Sequence[Any]) -> Parameters | None:
    """The parameters as floats, or None for what the kernels do not serve (torch then does, or
    raises its own error)."""
    largest = _LARGEST[dtype]
    if any(type(v) is not float and type(v) is not int for v in p):
        return None
    if kind == CONSTANT:
        (value,) = p
        if not -largest <= value <= largest or (type(value) is int and abs(value) > 2**53):
            return None
        return (float(value), 0.0, 0.0, 0.0)
    if not -largest <= p[0] <= largest or not -largest <= p[1] <= largest:
        return None
    if kind == UNIFORM:
        a, b = p
        return (float(a), float(b), 0.0, 0.0) if 0 <= b - a <= largest else None
    if kind == NORMAL:
        mean, std = p
        return (float(mean), float(std), 0.0, 0.0) if std >= 0 else None
    mean, std, a, b = p
    if not (std > 0 and a <= b and -inf <= a and b <= inf):
        return None
    nearest = max((a - mean) / std, (mean - b) / std, 0.0)
    return (float(mean), float(std), float(a), float(b)) if nearest <= _REACH[dtype] else None


def row_major(shape: Sequence[int]) -> list[int]:
    strides = [1] * len(shape)
    for d in range(len(shape) - 1, 0, -1):
        strides[d - 1] = strides[d] * shape[d]
    return strides


def box_in(view: Tensor, whole: Tensor) -> tuple[int, Box] | None:
    """(start, box) of a view's elements in the row-major index of the whole.

    None where a step of the view is not a fixed step in that index.
    """
    offset = view.storage_offset() - whole.storage_offset()
    if whole.is_contiguous():
        if view.is_contiguous():
            return offset, view.numel()
        return offset, tuple((n, s, s) for n, s in zip(view.shape, view.stride(), strict=True))
    if view.shape == whole.shape and view.stride() == whole.stride():
        sizes = zip(view.shape, view.stride(), row_major(view.shape), strict=True)
        return 0, tuple(sizes)
    # A dense permuted whole (channels_last): write offset and steps in its mixed radix.
    dims = sorted(zip(whole.stride(), whole.shape, row_major(whole.shape), strict=True), reverse=True)

    def digits(distance: int) -> list[int]:
        found = []
        for stride, size, _ in dims:
            found.append(distance // stride if size > 1 else 0)
            distance -= found[-1] * stride
        return found

    def index(of: list[int]) -> int:
        return sum(n * logical for n, (_, _, logical) in zip(of, dims, strict=True))

    last = digits(offset)
    start = index(last)
    box = []
    for size, stride in zip(view.shape, view.stride(), strict=True):
        if size > 1:
            step = digits(stride)
            box.append((size, stride, index(step)))
            last = [at + (size - 1) * n for at, n in zip(last, step, strict=True)]
    fits = all(at < size for at, (_, size, _) in zip(last, dims, strict=True))
    return (start, tuple(box)) if fits else None


def segment(fill: Fill, seed: int, stream: int, start: int, box: Box) -> tuple[Any, ...]:
    """A row of the kernels' table."""
    tensor = fill.tensor
    row = (fill.kind, _DTYPES[tensor.dtype], tensor.data_ptr(), seed, stream, start, box)
    return row + fill.parameters


def execute(table: Sequence[tuple[Any, ...]], tensors: Iterable[Tensor]) -> None:
    """Fill, and tell autograd that the tensors were written."""
    assert _C is not None
    _C.fill(table, torch.get_num_threads())
    torch.autograd.graph.increment_version([t for t in tensors if not t.is_inference()])
