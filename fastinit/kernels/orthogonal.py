"""Matrices of normals made orthogonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastinit.tensors.torch_private import unwatched

Matrices = Mapping[tuple[int, ...], Sequence[tuple[slice, ...]]]
"""The parts of a tensor that are matrices of their own, by shape."""


def equal_parts(tensor: Tensor, number: int) -> Matrices:
    """Return the equal parts of dimension 0 as matrices."""
    rows = len(tensor) // number
    parts = [(slice(n * rows, (n + 1) * rows),) for n in range(number)]
    return {(rows, *tensor.shape[1:]): parts}


def orthogonalise(tensor: Tensor, gain: float, matrices: Matrices) -> None:
    """Replace normals by (semi-)orthogonal matrices times `gain`, uniformly distributed.

    The Q of a matrix of normals, with the signs of R's diagonal: Mezzadri, "How to generate random
    matrices from the classical compact groups", 2007. 16-bit tensors are computed in float32.

    Args:
        tensor: standard normals, of shape (out, in, *kernel).
        gain: factor of the matrices.
        matrices: the parts that are matrices of their own.
    """
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    with torch.no_grad(), unwatched():
        for shape, parts in matrices.items():
            normals = torch.stack([tensor[part].reshape(shape[0], -1) for part in parts])
            for part, matrix in zip(parts, _orthogonal(normals.to(dtype)), strict=True):
                target = tensor[part]
                target.copy_((matrix * gain).reshape(target.shape))


def _orthogonal(normals: Tensor) -> Tensor:
    is_wide = normals.shape[-2] < normals.shape[-1]
    q, r = torch.linalg.qr(normals.mT if is_wide else normals)
    signed: Tensor = q * torch.diagonal(r, dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return signed.mT if is_wide else signed
