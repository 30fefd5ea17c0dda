"""A manifest inside the block tells what the end does, and changes nothing of it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fastinit import fused
from fastinit.plan.plan import Plan

Act = Callable[[nn.Linear], nn.Linear]


def again(model: nn.Linear) -> nn.Linear:
    model.weight.data = model.weight.data.clone()
    return model


def scaled(model: nn.Linear) -> nn.Linear:
    with torch.no_grad():
        model.weight.mul_(0.5)
    return model


def column(model: nn.Linear) -> nn.Linear:
    nn.init.normal_(model.weight[:, 1])
    return model


def copies(model: nn.Module, count: int) -> nn.ModuleList:
    return nn.ModuleList(copy.deepcopy(model) for _ in range(count))


PROGRAMS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "nothing": lambda model: model,
    "clone": again,
    "clone of a clone": lambda model: again(again(model)),
    "clone after an operation": lambda model: again(scaled(model)),
    "clones after an operation": lambda model: again(again(scaled(model))),
    "clones around a write to a part": lambda model: again(column(again(scaled(model)))),
    "casts": lambda model: model.half().float(),
    "more casts": lambda model: model.half().float().bfloat16(),
    "casts after an operation": lambda model: scaled(model).half().float(),
    "deep copies": lambda model: copy.deepcopy(copy.deepcopy(model)),
    "copies of a layer that is gone": lambda model: copies(model, 3),
    "copies after an operation": lambda model: copies(scaled(model), 2),
    "copies, one of them cast": lambda model: copies(model, 2).append(copy.deepcopy(model).half()),
    "a copy beside the layer": lambda model: nn.ModuleList([model, copy.deepcopy(model)]),
    "a copy of a copy": lambda model: copies(copies(model, 2), 2),
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


@pytest.mark.parametrize("before", [again, lambda model: again(scaled(model))])
@pytest.mark.parametrize("after", [lambda model: model, scaled, again, column])
def test_what_is_drawn_again_after_a_look_is_drawn_as_without(before: Act, after: Act) -> None:
    values = []
    for look in (lambda plan: None, Plan.manifest):
        with fused(seed=11) as plan:
            model = before(nn.Linear(4, 3))
            plan.add_root(model)
            look(plan)
            nn.init.normal_(after(model).weight)
        values.append(model.weight.detach())
    assert torch.equal(*values)


@pytest.mark.parametrize("casts", ["half.float", "half.float.bfloat16"])
def test_names_decide_whatever_casts_came_between(casts: str) -> None:
    with fused(seed=11) as plan:
        plain = nn.Linear(4, 3)
        plan.add_root(plain)
    with fused(seed=11) as plan:
        model = nn.Linear(4, 3)
        for cast in casts.split("."):
            model = getattr(model, cast)()
            plain = getattr(plain, cast)()
        plan.add_root(model)
    assert [t.name for t in plan.manifest().tensors] == ["weight", "bias"]
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_tells_what_the_end_does(program: str) -> None:
    early = []
    plan, _ = run(program, lambda plan: early.append(plan.manifest()))
    assert early == [plan.manifest()]
