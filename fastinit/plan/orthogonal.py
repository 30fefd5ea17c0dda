"""Orthogonal matrices: a fill with normals, and an operation that follows it."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from fastinit.kernels import tails
from fastinit.kernels.distributions import NORMAL
from fastinit.plan.current import current
from fastinit.plan.write import write
from fastinit.tensors.shards import is_dtensor
from fastinit.tensors.storage import storage_key


def make_orthogonal(
    tensor: Tensor, gain: float, generator: Generator | None, parts: int = 1
) -> bool:
    """Fill a tensor with a (semi-)orthogonal matrix times `gain`; each of its fan groups, if it has
    some, or else each of `parts` equal parts of dimension 0. False leaves it to torch."""
    is_number: Any = type(gain) in (int, float)
    is_ours = is_number and tensor.dim() > 1 and tensor.numel() > 0 and not is_dtensor(tensor)
    if not is_ours or not write(tensor, NORMAL, (0.0, 1.0), generator):
        return False
    operation = tails.orthogonal(gain, parts)
    plan = current()
    if plan is None:
        tails.apply(tensor, (operation,))
    elif not plan.record_tail(tensor, operation):  # the fill does not wait, or not for operations
        plan.flush([storage_key(tensor)])
        plan.apply_tail(tensor, (operation,))
        plan.computed(tensor)
    return True
