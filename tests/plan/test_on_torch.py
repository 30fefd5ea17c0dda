"""Plans of the torch backend, which record nothing: they answer as empty ones."""

from __future__ import annotations

import torch
from torch import nn

import fastinit
from fastinit import fused


def test_nothing_is_recorded_and_nothing_told() -> None:
    with fastinit.backend("torch"), fused(seed=3) as plan:
        model = nn.Linear(3, 2)
        fastinit.init.normal_(model.weight)
        plan.add_root(model)
        early = plan.manifest()
    assert early.tensors == ()
    assert plan.manifest() == early
    assert plan.order_dependent() == []
    assert torch.isfinite(model.weight).all()
