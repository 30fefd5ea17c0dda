"""The native fills of stream v1 (csrc/bindings.cpp)."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import Buffer

KINDS: tuple[str, ...]  # names of the distributions, indexed by kind
DTYPES: tuple[str, ...]  # likewise
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
    """Fill memory by every row (kind, dtype, pointer, seed, stream, start, box, p0, p1, p2, p3).

    `box` is a number of elements, contiguous in memory and in logical index, or a tuple of
    (size, memory_stride, index_stride), in elements, for each dimension. ValueError (OverlapError
    among them) and TypeError are raised before anything is written. The memory must stay alive and
    unshared during the call, which releases the GIL. On the main thread signals are handled within
    about a tenth of a second; if a handler raises (KeyboardInterrupt), the fill ends, and memory
    is written in part.
    """

class CudaError(RuntimeError):
    """An error of the CUDA driver, with its message."""

class NoKernelError(CudaError):
    """The build, or the given image, has no code for the GPU."""

CUDA_ARCHS: str  # compute capabilities of the build, "7.5 9.0+PTX"; empty without nvcc
CUDA_INLINE_BYTES: int  # the longest batch that a launch can pass by value
CUDA_SOURCE: str  # the kernel's source in one piece, for NVRTC

class CudaBatch(Buffer):
    """The table of one launch as the GPU reads it, `tiles` thread blocks; a buffer of bytes."""

    nbytes: int
    tiles: int

def cuda_pack(
    table: Sequence[tuple[Any, ...]], limit: int = 0, tile_units: int = 0
) -> list[CudaBatch]:
    """Return the table in as few batches of at most `limit` bytes as possible (0: one batch).

    Raises as `fill` does.
    """

def cuda_load(device: int, image: bytes | None = None) -> None:
    """Load the kernel on a device, once: from `image`, or by default from the build.

    Raises NoKernelError, or another CudaError.
    """

def cuda_launch(device: int, stream: int, batch: CudaBatch, table: int = 0) -> None:
    """Launch a fill on a stream of a loaded device, without waiting for it. Raises CudaError.

    `table` is the address of a copy of the batch in device memory; 0 passes the batch by value.
    """

def isas() -> tuple[str, ...]:
    """Return the instruction sets of this build that this machine has, fastest first."""

def default_isa() -> str:
    """Return the instruction set in use: FASTINIT_ISA (ValueError if it is not available), else the
    fastest."""

def normal_tail(x: float) -> float:
    """Return Phi(-x), from which the window of a truncated normal is derived."""

def truncation_reach(dtype: int) -> float:
    """Return how far from the mean a truncation window may begin, in standard deviations."""
