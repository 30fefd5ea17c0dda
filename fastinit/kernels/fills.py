"""Fill records, and how they reach the kernels: one table, one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from fastinit.kernels import cuda
from fastinit.kernels.backends import _C
from fastinit.kernels.cuda import Place
from fastinit.tensors.boxes import row_major, span

CONSTANT, UNIFORM, NORMAL, TRUNC_NORMAL = range(4)  # as in csrc/segment.h

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
_LARGEST = {dtype: torch.finfo(dtype).max for dtype in _DTYPES}
_REACH = {dtype: _C.truncation_reach(code) for dtype, code in _DTYPES.items()} if _C else {}
Overlap: type[ValueError] = _C.OverlapError if _C else ValueError
_MAX_DIMS = 8
_STRIDED = torch.strided
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor

Parameters = tuple[float, float, float, float]
Box = int | tuple[tuple[int, int, int], ...]


class Fill(NamedTuple):
    """One write of a whole tensor, or of a view that is a box of one."""

    tensor: Tensor
    kind: int
    parameters: Parameters
    seed: int | None  # of the call's own generator
    place: Place | None  # None: the CPU
    origin: str = ""  # what asked for it, where a plan keeps that
    rule: Callable[[Sequence[int]], tuple[float, ...]] | None = None  # by fans: of any shape


class Copy(NamedTuple):
    """One write of a whole tensor by another of its shape, which nobody else will change."""

    tensor: Tensor
    source: Tensor


class Cast(NamedTuple):
    """One write of a whole tensor by the values of another, which wait for fills: the same on
    another device, or rounded to another dtype."""

    tensor: Tensor
    source: Tensor


Record = Fill | Copy | Cast


def can_round(drawn: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether the kernels give, in one dtype, what was drawn in another and rounded."""
    return drawn == dtype or (drawn == torch.float32 and dtype in (torch.float16, torch.bfloat16))


def over(storage: torch.UntypedStorage, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the same geometry over other memory."""
    tensor = torch.empty(0, dtype=dtype or like.dtype, device=storage.device)
    tensor.set_(storage, like.storage_offset(), like.shape, like.stride())
    return tensor


def onto(fill: Fill, storage: torch.UntypedStorage, dtype: torch.dtype) -> Fill:
    """The fill of other memory that leaves there what `fill` would leave, rounded to `dtype`."""
    tensor, parameters = over(storage, fill.tensor, dtype), fill.parameters
    if dtype != fill.tensor.dtype and fill.kind == UNIFORM:
        parameters = (*parameters[:2], 1.0, 0.0)  # rounding may arrive at the upper bound
    return fill._replace(tensor=tensor, parameters=parameters, place=cuda.place_of(tensor))


def serves(tensor: Tensor, on_meta: bool = False) -> bool:
    """Whether the kernels can write this tensor, or could, had it memory (`on_meta`). Everything
    else is torch's."""
    kind = type(tensor)
    if kind is not Parameter and kind is not Tensor and not _is_plain(kind):
        return False
    if tensor.dtype not in _DTYPES:
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
        return False  # torch's error
    return tensor.is_contiguous() or (tensor.dim() <= _MAX_DIMS and is_injective(tensor))


@lru_cache(maxsize=256)
def _is_plain(kind: type[Tensor]) -> bool:
    """Whether a subclass of Tensor only adds behaviour, and is memory like any tensor."""
    dispatches = kind.__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl
    function = getattr(kind.__torch_function__, "__func__", kind.__torch_function__)
    return not dispatches and function in _PLAIN_FUNCTIONS


_PLAIN_FUNCTIONS = (
    torch._C._disabled_torch_function_impl,
    getattr(Tensor.__torch_function__, "__func__", None),
)


def is_injective(tensor: Tensor) -> bool:
    """Whether no two elements share memory, as those of an expanded tensor do."""
    extent = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= extent:
                return False
            extent += (size - 1) * stride
    return True


def valid_parameters(dtype: torch.dtype, kind: int, p: tuple[Any, ...]) -> Parameters | None:
    """The parameters as floats, or None for what the kernels do not serve (torch then does, or
    raises its own error)."""
    for value in p:
        if type(value) is not float and not _is_number(value):
            return None
    largest = _LARGEST[dtype]
    first = float(p[0])
    if not -largest <= first <= largest:
        return None
    if kind == CONSTANT:
        return (first, 0.0, 0.0, 0.0)
    second = float(p[1])
    if kind == UNIFORM:
        serves = second <= largest and 0 <= second - first <= largest
        return (first, second, 0.0, 0.0) if serves else None
    if kind == NORMAL:
        return (first, second, 0.0, 0.0) if 0 <= second <= largest else None
    a, b = float(p[2]), float(p[3])
    if not (0 < second <= largest and a <= b):
        return None
    nearest = max((a - first) / second, (first - b) / second, 0.0)
    return (first, second, a, b) if nearest <= _REACH[dtype] else None


def warn_if_far(mean: float, std: float, a: float, b: float) -> None:
    """torch's warning for windows that its own method used to draw badly."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=3,
        )


def _is_number(value: Any) -> bool:
    """What torch takes for a number, without its errors: int, bool, NumPy's scalars."""
    if isinstance(value, int):
        return abs(value) <= 2**53
    return isinstance(value, float) or (
        type(value).__module__ == "numpy" and isinstance(value, Real)
    )


def name_of(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def own_box(tensor: Tensor) -> tuple[int, Box]:
    """(start, box) of a tensor in its own row-major index."""
    if tensor.is_contiguous():
        return 0, tensor.numel()
    shape = tensor.shape
    return 0, tuple(zip(shape, tensor.stride(), row_major(shape), strict=True))


def box_in(view: Tensor, whole: Tensor) -> tuple[int, Box] | None:
    """(start, box) of a view's elements in the row-major index of the whole, which shares its
    storage.

    None if the view is not inside the whole, or a step of it is not a fixed step in that index.
    """
    if view.dtype != whole.dtype:
        return None
    if (
        view.shape == whole.shape
        and view.stride() == whole.stride()
        and view.storage_offset() == whole.storage_offset()
    ):
        return own_box(whole)
    offset = int(view.storage_offset() - whole.storage_offset())
    if offset < 0 or offset + span(view.shape, view.stride()) > span(whole.shape, whole.stride()):
        return None
    if whole.is_contiguous():
        return offset, tuple((n, s, s) for n, s in zip(view.shape, view.stride(), strict=True))
    # A permuted whole (channels_last): write the offset and the steps in its mixed radix.
    dims = sorted(
        zip(whole.stride(), whole.shape, row_major(whole.shape), strict=True), reverse=True
    )

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


def segment(
    tensor: Tensor, kind: int, parameters: Parameters, seed: int, stream: int, start: int, box: Box
) -> tuple[Any, ...]:
    """A row of the kernels' table."""
    dtype = _DTYPES[tensor.dtype]
    return (kind, dtype, tensor.data_ptr(), seed, stream, start, box, *parameters)


def execute(place: Place | None, table: Sequence[tuple[Any, ...]]) -> None:
    """Fill: on the CPU with torch's number of threads, or by a launch on a GPU."""
    assert _C is not None
    if place is None:
        _C.fill(table, torch.get_num_threads())
    else:
        cuda.execute(place, table)


def mark_written(tensor: Tensor) -> None:
    """Tell autograd: what it saved of this tensor is out of date."""
    if not tensor.is_inference():
        increment_version(tensor)


def mark_all_written(tensors: Sequence[Tensor]) -> None:
    """`mark_written` of many, at a fraction of the price for each."""
    increment_version([tensor for tensor in tensors if not tensor.is_inference()])
