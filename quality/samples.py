"""What the native fill draws, and words interleaved from several streams or seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastinit import _C
from fastinit.kernels.streams import stream_of

CODES = {
    torch.float32: _C.FLOAT32,
    torch.float16: _C.FLOAT16,
    torch.bfloat16: _C.BFLOAT16,
    torch.float64: _C.FLOAT64,
    torch.int32: _C.UINT32,
}
U32 = NDArray[np.uint32]

SEED = 20_240_229  # of every section; kept, so that the report is the same each time
STREAM = stream_of("layers.0.weight")


def name_of(dtype: torch.dtype) -> str:
    """ "fp32", "bf16", ... as tables have it."""
    return {
        torch.float32: "fp32",
        torch.float16: "fp16",
        torch.bfloat16: "bf16",
        torch.float64: "fp64",
    }[dtype]


def draw(
    kind: int,
    dtype: torch.dtype,
    parameters: tuple[float, ...],
    n: int,
    seed: int = SEED,
    stream: int = STREAM,
    start: int = 0,
) -> torch.Tensor:
    """Elements [start, start + n) of a parameter, on the calling thread."""
    tensor = torch.empty(n, dtype=dtype)
    padded = parameters + (0.0,) * (4 - len(parameters))
    row: tuple[Any, ...] = (kind, CODES[dtype], tensor.data_ptr(), seed, stream, start, n, *padded)
    _C.fill([row], 1)
    return tensor


def words(n: int, seed: int = SEED, stream: int = STREAM, start: int = 0) -> U32:
    """The raw words of those elements."""
    return draw(_C.WORDS, torch.int32, (), n, seed, stream, start).numpy().view(np.uint32)


def normals(n: int, seed: int = SEED, stream: int = STREAM, start: int = 0) -> NDArray[np.float32]:
    """Standard normals in fp32."""
    return draw(_C.NORMAL, torch.float32, (0.0, 1.0), n, seed, stream, start).numpy()


@dataclass(frozen=True)
class Source:
    """An endless sequence of words: of one (seed, stream), or one word of each in turn."""

    name: str
    keys: tuple[tuple[int, int], ...]

    def words(self, start: int, n: int) -> U32:
        """Words [start, start + n); both multiples of the number of keys."""
        return self._interleaved(words, start, n)

    def normals(self, start: int, n: int) -> NDArray[np.float32]:
        """The same for standard normals."""
        return self._interleaved(normals, start, n)

    def _interleaved(self, function: Callable[..., Any], start: int, n: int) -> NDArray[Any]:
        k = len(self.keys)
        if k == 1:
            ((seed, stream),) = self.keys
            return np.asarray(function(n, seed, stream, start))
        parts = [function(n // k, seed, stream, start // k) for seed, stream in self.keys]
        return np.stack(parts, axis=-1).ravel()


def sources(seed: int = SEED) -> Sequence[Source]:
    """One parameter; 64 parameters whose names differ in a number; 64 consecutive seeds."""
    return (
        Source("one stream", ((seed, STREAM),)),
        Source(
            "64 streams, layers.N.weight",
            tuple((seed, stream_of(f"layers.{n}.weight")) for n in range(64)),
        ),
        Source("64 seeds, s to s + 63", tuple((seed + n, STREAM) for n in range(64))),
    )
