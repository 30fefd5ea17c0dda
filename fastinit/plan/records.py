"""Records of writes that wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastinit.kernels.cuda import Place, place_of
from fastinit.kernels.distributions import Parameters, as_cast
from fastinit.tensors.storage import over

FanRule = Callable[[Sequence[int]], tuple[float, ...]]
"""The parameters that a rule by fans has for a weight of a shape."""


class Fill(NamedTuple):
    """One write of a whole tensor, or of a view that is a box of one, by a distribution.

    Attributes:
        tensor: what is written.
        kind, parameters: the distribution, see `kernels/distributions.py`.
        seed: of the call's own generator; None for the plan's.
        place: where it is launched; None for the CPU.
        origin: what asked for it, where a plan keeps that.
        fan_rule: the parameters for other shapes, if fans decide them.
    """

    tensor: Tensor
    kind: int
    parameters: Parameters
    seed: int | None
    place: Place | None
    origin: str = ""
    fan_rule: FanRule | None = None


class Copy(NamedTuple):
    """One write of a whole tensor by another of its shape, which nobody else will change."""

    tensor: Tensor
    source: Tensor


class Cast(NamedTuple):
    """One write of a whole tensor by the values of another, which wait for fills: the same on
    another device, or rounded to another dtype."""

    tensor: Tensor
    source: Tensor


Record = Fill | Copy | Cast


def onto(fill: Fill, storage: torch.UntypedStorage, dtype: torch.dtype) -> Fill:
    """The fill of other memory that leaves there what `fill` would leave, rounded to `dtype`."""
    tensor, parameters = over(storage, fill.tensor, dtype), fill.parameters
    if dtype != fill.tensor.dtype:
        parameters = as_cast(fill.kind, parameters)
    return fill._replace(tensor=tensor, parameters=parameters, place=place_of(tensor))
