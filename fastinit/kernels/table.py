"""The kernels' table: one row for each box of memory, one call for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastinit.kernels import cuda
from fastinit.kernels.cuda import Place
from fastinit.kernels.distributions import DTYPES, Parameters
from fastinit.kernels.native import _C
from fastinit.tensors.boxes import Box

Row = tuple[Any, ...]
"""A row: (kind, dtype, pointer, seed, stream, start, box, and four parameters), see `_C.fill`."""

Overlap: type[ValueError] = _C.OverlapError if _C else ValueError
"""The error for two rows that write the same memory."""


def row(
    tensor: Tensor, kind: int, parameters: Parameters, seed: int, stream: int, start: int, box: Box
) -> Row:
    """Return the row that fills a tensor with its stream's elements, the first at index `start`."""
    dtype = DTYPES[tensor.dtype]
    return (kind, dtype, tensor.data_ptr(), seed, stream, start, box, *parameters)


def execute(place: Place | None, rows: Sequence[Row]) -> None:
    """Fill memory by rows: on the CPU with torch's number of threads, or by a launch on a GPU.

    Raises:
        ValueError: an invalid row, or `Overlap`; nothing was written.
        RuntimeError: an error of the CUDA driver.
    """
    assert _C is not None
    if place is None:
        _C.fill(rows, torch.get_num_threads())
    else:
        cuda.execute(place, rows)
