"""Fills on NVIDIA GPUs: the kernel made ready, the table uploaded, one launch for a device.

A launch goes to the stream that was current where a tensor was filled, as an eager fill would, and
the host does not wait for it. A plan launches later than the call, so the stream that is current
then comes in between: it waits for the launch, as the launch does for what it has queued. (An event
that was recorded between the call and the launch knows nothing of it.)

The table of a large plan is staged in pinned memory of torch's allocators, which know when the
stream is done with it. A plan that is captured in a CUDA graph passes its table by value, about
twenty segments a launch, so that replays write the same values again. Nothing waits for the device,
but the first fill there may: it loads the kernel.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinit.kernels import nvrtc
from fastinit.kernels.native import _C
from fastinit.tensors import torch_private


class Place(NamedTuple):
    """Where a fill is launched: a CUDA device, by index, and a stream of it, by address."""

    device: int
    stream: int


_reasons: dict[int, str] = {}  # of devices asked for; "" where the kernel is ready
_streams: dict[Place, torch.cuda.Stream] = {}


def is_ready(device: int) -> bool:
    """Whether the kernel can run on a device; the first call loads it there."""
    reason = _reasons.get(device)
    return not (unavailable(device) if reason is None else reason)


def unavailable(device: int) -> str:
    """Why the kernel cannot run on a device, or "" if it can.

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
        RuntimeWarning,
        stacklevel=2,
    )
    return reason


def place_of(tensor: Tensor) -> Place | None:
    """Where an eager fill of the tensor would run now; None for the CPU, and for no memory."""
    if not tensor.is_cuda:
        return None
    device = tensor.get_device()
    place = Place(device, torch_private.current_stream(device))
    if place not in _streams:
        _streams[place] = torch.cuda.current_stream(device)
    return place


def is_capturing() -> bool:
    """Whether work is being captured in a CUDA graph rather than done."""
    is_used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return is_used and torch.cuda.is_current_stream_capturing()


def execute(place: Place, table: Sequence[tuple[Any, ...]]) -> None:
    """Launch a fill of all segments, or several where a graph is captured.

    Raises:
        ValueError: a segment that no fill could mean, or two that overlap; nothing was launched.
        RuntimeError: what the CUDA driver said; torch.OutOfMemoryError, no memory for the table.
    """
    assert _C is not None
    stream, current = _streams[place], torch.cuda.current_stream(place.device)
    if stream != current:
        stream.wait_stream(current)
    with torch.cuda.stream(stream):
        limit = _C.CUDA_INLINE_BYTES if torch.cuda.is_current_stream_capturing() else 0
        for batch in _C.cuda_pack(table, limit):
            if batch.nbytes <= _C.CUDA_INLINE_BYTES:
                _C.cuda_launch(*place, batch)
                continue
            uploaded = _upload(torch.frombuffer(batch, dtype=torch.uint8), place.device)
            _C.cuda_launch(*place, batch, uploaded.data_ptr())
    if stream != current:
        current.wait_stream(stream)


def _upload(table: Tensor, device: int) -> Tensor:
    """A copy on the device, in the order of the current stream."""
    staged = torch.empty(table.shape, dtype=table.dtype, device="cpu", pin_memory=True)
    return staged.copy_(table).to(torch.device("cuda", device), non_blocking=True)


def config() -> str:
    """What `show_config` says of CUDA."""
    assert _C is not None
    built = f"compiled for {_C.CUDA_ARCHS}" if _C.CUDA_ARCHS else "not compiled ahead of time"
    if torch.version.cuda is None:
        return f"{built}; this torch has no CUDA"
    # Only what is in use already: to ask a GPU is to occupy it.
    devices = [
        f"cuda:{n} {_reasons[n] or 'native'}" if n in _reasons else f"cuda:{n} not used yet"
        for n in range(torch.cuda.device_count())
    ]
    return "; ".join([built, *devices]) if devices else f"{built}; no device"
