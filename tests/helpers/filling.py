"""Calling the native fill from tests: rules, regions of tensors, segments of a table, and what the
oracle says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fake_cuda
import numpy as np
import oracle
import torch
from numpy.typing import NDArray

from fastinit import _C

CODES = {
    torch.float32: _C.FLOAT32,
    torch.float16: _C.FLOAT16,
    torch.bfloat16: _C.BFLOAT16,
    torch.float64: _C.FLOAT64,
    torch.int32: _C.UINT32,  # torch's int32 holds the bits of the words
}
ITEMSIZES = {code: dtype.itemsize for dtype, code in CODES.items()}
KINDS = {name: kind for kind, name in enumerate(_C.KINDS)}


@dataclass(frozen=True)
class Rule:
    """A distribution with its parameters: (value), (a, b), (mean, std) or (mean, std, a, b)."""

    kind: str
    parameters: tuple[float, ...] = ()

    def expected(
        self, seed: int, stream: int, index: oracle.U64, dtype: str
    ) -> NDArray[np.float64]:
        """The oracle's values, before rounding to a 16-bit dtype."""
        if self.kind == "constant":
            return np.full(len(index), oracle.represent(self.parameters[0], dtype))
        function = getattr(oracle, self.kind)
        result: NDArray[np.float64] = function(seed, stream, index, dtype, *self.parameters)
        return result


WORDS = Rule("words")


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32, as the oracle and the golden vectors name it."""
    return str(dtype).removeprefix("torch.")


def segment(
    tensor: torch.Tensor,
    rule: Rule,
    seed: int = 0,
    stream: int = 0,
    start: int = 0,
    box: oracle.Box | None = None,
) -> tuple[Any, ...]:
    """One row of the table: `tensor` from its first element on, or the box of it."""
    if box is None:
        box = tensor.numel()
    parameters = rule.parameters + (0.0,) * (4 - len(rule.parameters))
    kind, code = KINDS[rule.kind], CODES[tensor.dtype]
    return (kind, code, tensor.data_ptr(), seed, stream, start, box, *parameters)


def fill(table: Sequence[tuple[Any, ...]], threads: int = 1, isa: str | None = None) -> None:
    """`_C.fill`; with "cuda" for an ISA, the kernel for GPUs on this machine (fake_cuda.py), whose
    launch is cut into as many tiles as `threads` says: 1 leaves it the choice."""
    if isa != "cuda":
        return _C.fill(table, threads, isa)
    driver = fake_cuda.driver()
    driver.forget()
    for batch in _C.cuda_pack(table, 0, 0 if threads == 1 else min(100 * threads, 2**31)):
        is_short = batch.nbytes <= _C.CUDA_INLINE_BYTES
        pointer = 0 if is_short else torch.frombuffer(batch, dtype=torch.uint8).data_ptr()
        _C.cuda_launch(0, 0, batch, pointer)
    # Each element once: together they cover the table, or a test would see it.
    expected = sum(math.prod(sizes(row[6])) * ITEMSIZES[row[1]] for row in table)
    assert sum(launch.written for launch in driver.launches) == expected
    return None


def sizes(box: oracle.Box) -> list[int]:
    """The number of steps of each dimension of a box."""
    return [box] if isinstance(box, int) else [size for size, _, _ in box]


def filled(
    n: int,
    dtype: torch.dtype,
    rule: Rule,
    seed: int = 0,
    stream: int = 0,
    start: int = 0,
    threads: int = 1,
    isa: str | None = None,
) -> torch.Tensor:
    """n new elements of the given stream from logical index `start` on."""
    tensor = torch.full((n,), -1, dtype=dtype)
    fill([segment(tensor, rule, seed, stream, start)], threads, isa)
    return tensor


def bits(tensor: torch.Tensor) -> NDArray[Any]:
    """The bit patterns of a tensor, so that comparisons see the sign of zero and NaN."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().contiguous().view(width).numpy()


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Bitwise equality."""
    return left.dtype == right.dtype and bool(np.array_equal(bits(left), bits(right)))


def indices(n: int, start: int = 0) -> oracle.U64:
    """Logical indices start, start + 1, ..., n of them."""
    return np.arange(n, dtype=np.uint64) + np.uint64(start)


class Guarded:
    """A flat tensor amid bytes that must not change, its first element off the natural vector
    alignment.

    `tensor` has n elements; `intact()` says whether what lies around them (and, for a box, the
    elements of the tensor that it leaves out) still holds the pattern.
    """

    MARGIN = 256  # elements either side, more than the widest vector group writes at once
    PATTERN = 0xA5

    def __init__(self, n: int, dtype: torch.dtype, shift: int = 1) -> None:
        """n elements of `dtype` that begin `shift` elements past a 64-byte boundary."""
        size = dtype.itemsize
        total = n + 2 * self.MARGIN + 64 // size + shift
        self._bytes = torch.full((total * size + 64,), self.PATTERN, dtype=torch.uint8)
        skip = -self._bytes.data_ptr() % 64
        self._whole = self._bytes[skip : skip + total * size].view(dtype)
        self._first = self.MARGIN + shift
        self.tensor = self._whole[self._first : self._first + n]

    def intact(self, written: NDArray[np.int64] | None = None) -> bool:
        """Whether every element but those at the memory offsets `written` (default: all) is as it
        was."""
        size = self._whole.element_size()
        raw = self._whole.view(torch.uint8).numpy().reshape(-1, size)
        outside = np.ones(len(raw), dtype=bool)
        n = self.tensor.numel()
        inside = np.arange(n) if written is None else written
        outside[self._first + inside] = False
        return bool((raw[outside] == self.PATTERN).all())
