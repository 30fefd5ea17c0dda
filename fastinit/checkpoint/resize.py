"""The two resizings that everybody writes by hand: of position embeddings, of input channels."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor
from torch.nn.functional import interpolate

_POSITIONS = re.compile(r"(^|\.)(pos_embed|absolute_pos_embed|position_embeddings?)(\.weight)?$")


def position_embedding(name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
    """Return position embeddings of a square grid, interpolated to another (Dosovitskiy et al.,
    "An image is worth 16x16 words", ICLR 2021, section 3.2); None if it is not that.

    Args:
        name: the entry's name, which ends with `pos_embed` or the like.
        value: of shape (1, tokens, channels) or (tokens, channels); tokens before the grid, of
            classes and registers, stay.
        shape: the model's shape.
    """
    is_one = _POSITIONS.search(name) is not None and value.dim() == len(shape) in (2, 3)
    if not is_one or value.shape[-1] != shape[-1] or value.shape[:-2] != shape[:-2]:
        return None
    extra = next(
        (n for n in range(9) if all(_is_square(s - n) for s in (value.shape[-2], shape[-2]))), None
    )
    if extra is None:
        return None
    before, grid = value[..., :extra, :], value[..., extra:, :]
    size, wanted = math.isqrt(grid.shape[-2]), math.isqrt(shape[-2] - extra)
    image = grid.reshape(1, size, size, -1).permute(0, 3, 1, 2).float()
    resized = interpolate(image, (wanted, wanted), mode="bicubic", antialias=True)
    flat = resized.permute(0, 2, 3, 1).reshape(*shape[:-2], wanted * wanted, shape[-1])
    return torch.cat([before, flat.to(value.dtype)], dim=-2)


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def input_channels(value: Tensor, shape: torch.Size) -> Tensor | None:
    """Return the weight of a convolution over images of three channels for another number of them,
    as timm does; None if it is not that.

    One channel gets the sum of all; others get them in turn, scaled by three over their number.
    """
    is_one = value.dim() == len(shape) == 4 and value.shape[1] == 3 != shape[1]
    if not is_one or value.shape[:1] != shape[:1] or value.shape[2:] != shape[2:]:
        return None
    old, new = value.shape[1], shape[1]
    if new == 1:
        return value.float().sum(dim=1, keepdim=True).to(value.dtype)
    turns = [1, -(-new // old)] + [1] * (value.dim() - 2)
    repeated = value.float().repeat(*turns)[:, :new]
    return (repeated * (old / new)).to(value.dtype)
