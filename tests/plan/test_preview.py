"""A manifest inside the block tells what the end does, and changes nothing of it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fastinit import fused
from fastinit.plan.plan import Plan


def again(model: nn.Linear) -> nn.Linear:
    model.weight.data = model.weight.data.clone()
    return model


def scaled(model: nn.Linear) -> nn.Linear:
    with torch.no_grad():
        model.weight.mul_(0.5)
    return model


PROGRAMS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "nothing": lambda model: model,
    "clone": again,
    "clone of a clone": lambda model: again(again(model)),
    "clone after an operation": lambda model: again(scaled(model)),
    "casts": lambda model: model.half().float(),
    "deep copies": lambda model: copy.deepcopy(copy.deepcopy(model)),
}


def run(program: str, look: Callable[[Plan], object]) -> tuple[Plan, nn.Module]:
    with fused(seed=11) as plan:
        model = PROGRAMS[program](nn.Linear(4, 3))
        plan.add_root(model)
        look(plan)
    return plan, model


@pytest.mark.parametrize("look", [Plan.manifest, Plan.order_dependent, Plan.table])
@pytest.mark.parametrize("program", PROGRAMS)
def test_looking_changes_no_value_and_no_name(program: str, look: Callable[[Plan], object]) -> None:
    plan, model = run(program, lambda plan: None)
    seen_plan, seen = run(program, look)
    assert seen_plan.manifest() == plan.manifest()
    for name, value in model.state_dict().items():
        assert torch.equal(seen.state_dict()[name], value), name


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_tells_what_the_end_does(program: str) -> None:
    early = []
    plan, _ = run(program, lambda plan: early.append(plan.manifest()))
    assert early == [plan.manifest()]
