"""Native fills of stream v1 (csrc/bindings.cpp)."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import Buffer

KINDS: tuple[str, ...]  # distributions, each at the place of its number
DTYPES: tuple[str, ...]
CONSTANT: int
UNIFORM: int
NORMAL: int
TRUNC_NORMAL: int
WORDS: int
FLOAT32: int
FLOAT16: int
BFLOAT16: int
FLOAT64: int
UINT32: int

class OverlapError(ValueError):
    """Two rows of a table write the same memory."""

def fill(table: Sequence[tuple[Any, ...]], threads: int = 1, isa: str | None = None) -> None:
    """Carry out every row (kind, dtype, pointer, seed, stream, start, box, p0, p1, p2, p3).

    `box` is a number of elements, contiguous in memory and in logical index, or a tuple of
    (size, memory_stride, index_stride) in elements. Raises ValueError or TypeError before
    anything is written; the memory must stay alive and unshared during the call. The GIL is
    released meanwhile. On the main thread signals are handled within tens of milliseconds, and
    what their handler raises (KeyboardInterrupt) ends the fill, its memory written in part.
    """

class CudaError(RuntimeError):
    """What the CUDA driver said."""

class NoKernelError(CudaError):
    """The build, or a given image, has no code for the GPU."""

CUDA_ARCHS: str  # compute capabilities compiled for, "7.5 9.0+PTX"; empty without nvcc
CUDA_INLINE_BYTES: int  # the longest batch that can travel with a launch
CUDA_SOURCE: str  # the kernel in one piece, for NVRTC

class CudaBatch(Buffer):
    """A table for one launch, as the GPU reads it; a buffer of bytes."""

    nbytes: int
    tiles: int

def cuda_pack(
    table: Sequence[tuple[Any, ...]], limit: int = 0, tile_units: int = 0
) -> list[CudaBatch]:
    """The table in as few batches as `limit` bytes for each allow (0: one). Raises as `fill`."""

def cuda_load(device: int, image: bytes | None = None) -> None:
    """Make the kernel ready on a device, once: the build's own, or a given image. Raises
    NoKernelError, and other CudaErrors."""

def cuda_launch(device: int, stream: int, batch: CudaBatch, table: int = 0) -> None:
    """Fill on a stream of a loaded device, without waiting. `table` is where a copy of the batch
    lies in the device's memory, 0 if it travels with the launch. Raises CudaError."""

def isas() -> tuple[str, ...]:
    """Instruction sets of this build that this machine has, fastest first."""

def default_isa() -> str:
    """The one in use: FASTINIT_ISA, else the fastest. Raises ValueError if it is not available."""

def normal_tail(x: float) -> float:
    """Phi(-x), as the truncated normal's window is derived from it."""

def truncation_reach(dtype: int) -> float:
    """How many standard deviations from the mean a truncation window may begin."""
