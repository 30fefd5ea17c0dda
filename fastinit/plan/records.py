"""The records of writes that wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastinit.kernels.cuda import Place, place_of
from fastinit.kernels.distributions import (
    DISTRIBUTIONS,
    Parameters,
    as_cast,
    valid_parameters,
)
from fastinit.kernels.tails import Chain, Operation, Tail, recognised
from fastinit.tensors.storage import tensor_over

FanRule = Callable[[Sequence[int]], tuple[float, ...]]
"""A fan rule: from the shape of a weight to the parameters of its distribution."""

Taken = tuple[int, tuple[tuple[int, int], ...]]
"""A part of a tensor: (start, ((size, stride), ...)) in its row-major index."""


class Fill(NamedTuple):
    """A record of a write of a whole tensor, or of a view that is a box of one, by a distribution.

    Attributes:
        tensor: the tensor or view that is written.
        kind, parameters: the distribution, see `kernels/distributions.py`.
        seed: the seed drawn from the call's own generator; None for the plan's.
        place: the place of the launch; None for the CPU.
        origin: what asked for it, if the plan keeps an account.
        fan_rule: gives the parameters for other shapes, if they depend on fans.
        tail: the operations that follow, see `kernels/tails.py`.
        chain: the fill and its operations as code asked for them, if it asked for any.
        part: of a shard, the part of the whole tensor that is filled, by all ranks together; None
            if that is all of the tensor, or `tensor` alone tells.
    """

    tensor: Tensor
    kind: int
    parameters: Parameters
    seed: int | None
    place: Place | None
    origin: str = ""
    fan_rule: FanRule | None = None
    tail: Tail = ()
    chain: Chain | None = None
    part: Taken | None = None

    @property
    def asked_for(self) -> Chain:
        """The fill and its operations as code asked for them."""
        return self.chain or Chain(self.kind, self.parameters, self.tail)

    def followed_by(self, operation: Operation) -> Fill:
        """Return the fill with one more operation."""
        asked = self.asked_for
        chain = asked._replace(tail=(*asked.tail, operation))
        found = recognised(chain)
        given = found.parameters[: len(DISTRIBUTIONS[found.kind].arguments)]
        if valid_parameters(self.tensor.dtype, found.kind, given) is None:  # beyond reach
            found = chain
        kind, parameters, tail = found
        fan_rule = self.fan_rule if kind == self.kind else None
        return self._replace(
            kind=kind, parameters=parameters, tail=tail, chain=chain, fan_rule=fan_rule
        )


class Copy(NamedTuple):
    """A record of a copy to a whole tensor from one of its shape, which nothing else changes."""

    tensor: Tensor
    source: Tensor


class Cast(NamedTuple):
    """A record of a move or cast: a whole tensor gets the values of another, which waits for fills,
    on another device or rounded to another dtype."""

    tensor: Tensor
    source: Tensor


Record = Fill | Copy | Cast


def onto(fill: Fill, storage: torch.UntypedStorage, dtype: torch.dtype) -> Fill:
    """Return a fill that writes to `storage` the values of `fill`, rounded to `dtype`."""
    tensor, parameters = tensor_over(storage, fill.tensor, dtype), fill.parameters
    if dtype != fill.tensor.dtype:
        parameters = as_cast(fill.kind, parameters)
    return fill._replace(tensor=tensor, parameters=parameters, place=place_of(tensor))
