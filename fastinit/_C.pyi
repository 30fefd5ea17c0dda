"""Native fills of stream v1 (csrc/bindings.cpp)."""

from collections.abc import Sequence
from typing import Any

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
    """Two segments of a table write the same memory."""

def fill(table: Sequence[tuple[Any, ...]], threads: int = 1, isa: str | None = None) -> None:
    """Fill every segment (kind, dtype, pointer, seed, stream, start, box, p0, p1, p2, p3).

    `box` is a number of elements, contiguous in memory and in logical index, or a tuple of
    (size, memory_stride, index_stride) in elements. Raises ValueError or TypeError before
    anything is written; the memory must stay alive and unshared during the call. The GIL is
    released meanwhile. On the main thread signals are handled within tens of milliseconds, and
    what their handler raises (KeyboardInterrupt) ends the fill, its memory written in part.
    """

def isas() -> tuple[str, ...]:
    """Instruction sets of this build that this machine has, fastest first."""

def default_isa() -> str:
    """The one in use: FASTINIT_ISA, else the fastest. Raises ValueError if it is not available."""

def normal_tail(x: float) -> float:
    """Phi(-x), as the truncated normal's window is derived from it."""

def truncation_reach(dtype: int) -> float:
    """How many standard deviations from the mean a truncation window may begin."""
