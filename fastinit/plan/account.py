"""The account of a plan: how each tensor was written, in memory of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastinit.kernels import tails
from fastinit.kernels.distributions import DTYPES
from fastinit.manifest.manifest import Drawn, Manifest, Written
from fastinit.tensors import boxes

if TYPE_CHECKING:
    from fastinit._C import Recorder

_DTYPES = {number: dtype for dtype, number in DTYPES.items()}


class Account:
    """The account of a plan's writes. What was asked for and drawn is in the plan's recorder.

    Attributes:
        unmatched: rules that wrote nothing, in words.
    """

    def __init__(self) -> None:
        self.unmatched: list[str] = []

    def manifest(self, recorder: Recorder, of_shards: Mapping[str, torch.dtype]) -> Manifest:
        """Return the manifest of all tensors with a name, or drawn without one; `of_shards` has the
        dtypes of DTensors by name, of which the recorder knows those that it fills."""
        tensors = tuple(_written(of_shards, *entry) for entry in recorder.entries())
        return Manifest(tensors, tuple(self.unmatched))


def _written(
    of_shards: Mapping[str, torch.dtype],
    name: str,
    tensor: Tensor | tuple[tuple[int, ...], int],
    aliases: list[str],
    status: str | None,
    drawn: list[Any],
    writes: int,
) -> Written:
    if isinstance(tensor, Tensor):
        shape, dtype = tuple(tensor.shape), tensor.dtype
    else:
        shape, dtype = tensor[0], _DTYPES.get(tensor[1]) or of_shards[name]
    fills = _fills(drawn, shape)
    if not all(tails.is_pointwise(fill.tail) for fill in fills):
        fills = []
    return Written.of(name, shape, dtype, status, fills, writes, tuple(aliases))


def _fills(drawn: list[Any], shape: tuple[int, ...]) -> list[Drawn]:
    fills: list[Drawn] = []
    for kind, parameters, stream, seed, start, box, origin, tail in drawn:
        if box is not None and boxes.ranges(start, box, shape) is None:
            fills = []  # a manifest cannot describe this part
            continue
        fills.append(Drawn.of(kind, parameters, stream, seed, origin, start, box, tail))
    return fills
