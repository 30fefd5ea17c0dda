"""Fills on NVIDIA GPUs: the kernel is loaded, the table uploaded, the kernel launched.

A fill is launched on the stream that was current at the call, as an eager fill would be. In a plan
it may wait only if that is the stream which was current when the plan was opened, and is not being
captured in a CUDA graph; all others are launched at once. What waits is launched before an event is
recorded and before a capture begins (`capture/patches.py`). If another stream is current at the
launch, the launch waits for the work queued there, and that stream waits for the launch.

The table of a large plan is staged in pinned memory of torch's allocators, which know when the
stream is done with it. Under capture the table is passed by value, about twenty rows a launch, so
that replays write the same values again. The host waits for nothing, except that the first fill on
a device loads the kernel.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fastinit.kernels import nvrtc
from fastinit.kernels.native import _C
from fastinit.tensors import torch_private
from fastinit.warning import FallbackWarning

if TYPE_CHECKING:
    from fastinit._C import NativeRows


class Place(NamedTuple):
    """The place of a launch: the index of a CUDA device, and the address of one of its streams."""

    device: int
    stream: int


_reasons: dict[int, str] = {}  # by device, why it has no kernel; "" if it is ready
_streams: dict[Place, torch.cuda.Stream] = {}


def is_ready(device: int) -> bool:
    """Whether the kernel can run on a device; the first call loads it."""
    reason = _reasons.get(device)
    return not (why_unavailable(device) if reason is None else reason)


def why_unavailable(device: int) -> str:
    """Return why the kernel cannot run on a device, or "" if it can.

    Raises:
        RuntimeError: an error of the CUDA driver, such as a lack of memory.
    """
    if device not in _reasons:
        _reasons[device] = _load(device)
    return _reasons[device]


def _load(device: int) -> str:
    assert _C is not None
    if torch.version.hip is not None:
        return "the kernels are for NVIDIA's GPUs"
    try:
        _C.cuda_load(device)
        return ""
    except _C.NoKernelError as error:
        reason = str(error)
    try:
        image = nvrtc.compiled(_C.CUDA_SOURCE, torch.cuda.get_device_capability(device))
        _C.cuda_load(device, image)
        return ""
    except (nvrtc.Unusable, _C.NoKernelError) as error:
        reason = f"{reason}; {error}"
    warnings.warn(
        f"tensors on cuda:{device} are filled by torch.nn.init, with other values: {reason}",
        FallbackWarning,
        stacklevel=2,
    )
    return reason


def place_of(tensor: Tensor) -> Place | None:
    """Return the place where an eager fill would run now; None for a tensor that is not on CUDA."""
    return _current_place(tensor.get_device()) if tensor.is_cuda else None


def current_places() -> list[Place]:
    """Return the current stream of each device; none before CUDA is used, when all are default
    streams."""
    is_used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return [_current_place(n) for n in range(torch.cuda.device_count())] if is_used else []


def _current_place(device: int) -> Place:
    place = Place(device, torch_private.current_stream(device))
    if place not in _streams:
        _streams[place] = torch.cuda.current_stream(device)
    return place


def execute(place: Place, table: Sequence[tuple[Any, ...]] | NativeRows) -> None:
    """Launch one fill of all rows, or several fills while a graph is captured.

    Raises:
        ValueError: an invalid row, or two that overlap; nothing was launched.
        RuntimeError: an error of the CUDA driver; torch.OutOfMemoryError if the table has no room.
    """
    if place.stream == torch_private.current_stream(place.device):
        _launch(place, table)
        return
    current = torch.cuda.current_stream(place.device)
    stream = _streams.get(place) or torch.cuda.default_stream(place.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        _launch(place, table)
    current.wait_stream(stream)


def _launch(place: Place, table: Sequence[tuple[Any, ...]] | NativeRows) -> None:
    assert _C is not None
    limit = _C.CUDA_INLINE_BYTES if _C.cuda_is_capturing(*place) else 0
    for batch in _C.cuda_pack(table, limit):
        if batch.nbytes <= _C.CUDA_INLINE_BYTES:
            _C.cuda_launch(*place, batch)
            continue
        uploaded = _upload(torch.frombuffer(batch, dtype=torch.uint8), place.device)
        _C.cuda_launch(*place, batch, uploaded.data_ptr())


def _upload(table: Tensor, device: int) -> Tensor:
    """Return a copy on the device, made in the order of the current stream."""
    staged = torch.empty(table.shape, dtype=table.dtype, device="cpu", pin_memory=True)
    return staged.copy_(table).to(torch.device("cuda", device), non_blocking=True)


def config() -> str:
    """Return the line about CUDA that `show_config` prints."""
    assert _C is not None
    built = f"compiled for {_C.CUDA_ARCHS}" if _C.CUDA_ARCHS else "not compiled ahead of time"
    if torch.version.cuda is None:
        return f"{built}; this torch has no CUDA"
    # Only devices in use already: loading the kernel on others would create contexts there.
    devices = [
        f"cuda:{n} {_reasons[n] or 'native'}" if n in _reasons else f"cuda:{n} not used yet"
        for n in range(torch.cuda.device_count())
    ]
    return "; ".join([built, *devices]) if devices else f"{built}; no device"
