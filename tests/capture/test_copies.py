"""`copy_` in a plan returns its tensor, as torch's does, whichever way the copy goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastinit import fused, init
from fastinit.plan.plan import Copies


def pending() -> Tensor:
    return init.normal_(torch.empty(3))


@pytest.mark.parametrize("more", [(), (True,)], ids=["plain", "non-blocking"])
def test_copies_of_what_waits(more: tuple[bool, ...]) -> None:
    with fused(seed=1) as plan:
        source, target = pending(), torch.empty(3)
        assert target.copy_(source, *more) is target
        assert plan.pending, "it waits, as its source does"
    assert torch.equal(target, source)


@pytest.mark.parametrize("more", [(), (True,)], ids=["plain", "non-blocking"])
def test_copies_that_are_kept(more: tuple[bool, ...]) -> None:
    with fused(seed=1) as plan:
        source, target = torch.arange(3.0), torch.empty(3)
        plan.copies = Copies.KEPT  # as while weights are read
        assert target.copy_(source, *more) is target
        assert plan.pending
    assert target.tolist() == [0, 1, 2]


@pytest.mark.parametrize("reads", [False, True])
def test_what_was_cast_before_the_copy_keeps_its_values(reads: bool) -> None:
    with fused(seed=1):
        first, second = init.ones_(torch.empty(3)), init.constant_(torch.empty(3), 2)
        cast = first.double()
        if reads:
            cast.sum().item()
        first.copy_(second)
    assert first.tolist() == [2, 2, 2]
    assert cast.tolist() == [1, 1, 1]
