"""Random programs: what a plan defers is seen in nothing but speed.

Short ones here; `make fuzz` runs a hundred thousand of each. In the first kind, random fills are
constants that their arguments decide, so that plain torch, without a plan, says bit for bit what is
right, and which errors are. In the second kind laws are real, and what the manifest tells of each
named tensor has to make its values again.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
import torch
from eager import constant_draws
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import fastinit
from fastinit import fused, init

SHAPE = (4, 5)


@dataclass
class State:
    """What the steps of a program work on, and what it has seen."""

    tensors: list[Tensor] = field(default_factory=lambda: [torch.zeros(SHAPE) for _ in range(4)])
    kept: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)


Step = Callable[[State, int, int, int], object]
"""A step of a program: (state, which tensor, which other, its number in the program)."""


def put(make: Callable[[State, int, int, int], Tensor]) -> Step:
    """A step that replaces the tensor."""

    def step(s: State, k: int, j: int, n: int) -> None:
        s.tensors[k] = make(s, k, j, n)

    return step


def pickled(x: Tensor) -> Tensor:
    result: Tensor = pickle.loads(pickle.dumps(x))
    return result


def saved(x: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save({"x": x}, file)
    file.seek(0)
    result: Tensor = torch.load(file)["x"]
    return result


def through_a_module(s: State, k: int, j: int, n: int) -> Tensor:
    one, other = nn.Linear(*SHAPE), nn.Linear(*SHAPE)
    for layer in (one, other):
        init.zeros_(layer.bias)
    init.constant_(one.weight, n)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        one.weight.add_(1)
    return other.weight.detach().t()


def optimised(s: State, k: int, j: int, n: int) -> Tensor:
    p = nn.Parameter(s.tensors[k].detach().float())
    optimizer = torch.optim.SGD([p], lr=0.5, momentum=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (p * n).sum().backward()
        optimizer.step()
    return p.detach()


def backward(s: State, k: int, j: int, n: int) -> None:
    if s.losses:
        s.losses.pop().backward()
    s.seen.append([None if t.grad is None else t.grad.sum().item() for t in s.tensors])


def in_place_of_graph(s: State, k: int, j: int, n: int) -> None:
    y = s.tensors[k].float() * 1
    s.losses.append((y * y).sum())
    init.constant_(y if j % 2 else y.detach(), n)


STEPS: dict[str, Step] = {
    "normal": lambda s, k, j, n: init.normal_(s.tensors[k], n, 1.0),
    "constant": lambda s, k, j, n: nn.init.constant_(s.tensors[k], n),
    "fill": lambda s, k, j, n: s.tensors[k].fill_(n),
    "zero": lambda s, k, j, n: s.tensors[k][j].zero_(),
    "part": lambda s, k, j, n: init.uniform_(s.tensors[k][:, j], n, n + 1),
    "number": lambda s, k, j, n: s.tensors[k].fill_(s.tensors[j].flatten()[n % 20]),
    "tail": lambda s, k, j, n: s.tensors[k].mul_(j).add_(1),
    "window": lambda s, k, j, n: s.tensors[k].data.clamp_(-j, n),
    "reads": lambda s, k, j, n: s.seen.append(s.tensors[k][j].sum().item()),
    "numpy": lambda s, k, j, n: s.seen.append(s.tensors[k].detach().float().numpy().sum()),
    "copy": lambda s, k, j, n: s.tensors[k].copy_(s.tensors[j]),
    "rows": lambda s, k, j, n: s.tensors[k].__setitem__(j, s.tensors[j][0]),
    "data": lambda s, k, j, n: setattr(s.tensors[k], "data", s.tensors[j].detach().clone()),
    "keep": lambda s, k, j, n: s.kept.append(s.tensors[k]),
    "swap": lambda s, k, j, n: torch.utils.swap_tensors(s.tensors[k], s.tensors[j]),
    "gradient": lambda s, k, j, n: s.tensors[k].requires_grad_(),
    "loss": lambda s, k, j, n: s.losses.append((s.tensors[k] * s.tensors[j]).float().sum()),
    "graph": in_place_of_graph,
    "backward": backward,
    "new": put(lambda s, k, j, n: init.constant_(torch.empty(SHAPE), n)),
    "view": put(lambda s, k, j, n: s.tensors[j].view(SHAPE)),
    "tied": put(lambda s, k, j, n: nn.Parameter(s.tensors[j])),
    "clone": put(lambda s, k, j, n: s.tensors[j].clone()),
    "deepcopy": put(lambda s, k, j, n: copy.deepcopy(s.tensors[j])),
    "half": put(lambda s, k, j, n: s.tensors[j].bfloat16()),
    "double": put(lambda s, k, j, n: s.tensors[k].double()),
    "pickle": put(lambda s, k, j, n: pickled(s.tensors[j])),
    "save": put(lambda s, k, j, n: saved(s.tensors[j])),
    "module": put(through_a_module),
    "optimizer": put(optimised),
}

programs = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3), st.integers(0, 3)), max_size=16
)


def run(steps: list[tuple[str, int, int]]) -> tuple[list[Any], list[Tensor]]:
    state = State()
    for n, (name, k, j) in enumerate(steps):
        try:
            STEPS[name](state, k, j, n)
        except Exception as error:
            state.seen.append((name, type(error).__name__))
    return state.seen, [*state.tensors, *state.kept]


@given(programs)
@pytest.mark.filterwarnings("ignore")
def test_programs_are_as_without_a_plan(steps: list[tuple[str, int, int]]) -> None:
    outcomes = []
    for context in (nullcontext(), fused(seed=7)):
        with constant_draws(), context:
            seen, tensors = run(steps)
        outcomes.append((repr(seen), [(t.dtype, t.detach().double()) for t in tensors]))
    (seen, values), (expected_seen, expected) = outcomes[::-1]
    assert seen == expected_seen
    for (dtype, value), (expected_dtype, expected_value) in zip(values, expected, strict=True):
        assert dtype is expected_dtype
        assert torch.equal(value.nan_to_num(77), expected_value.nan_to_num(77))


def twins() -> list[nn.Parameter]:
    """Return copies of what is gone then."""
    weight = nn.Parameter(init.normal_(torch.empty(4, 6)))
    return [copy.deepcopy(weight) for _ in range(2)]


LAWS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "normal": lambda w, other: init.normal_(w, 1, 2),
    "uniform": lambda w, other: nn.init.uniform_(w, -1, 3),
    "truncated": lambda w, other: nn.init.trunc_normal_(w, std=0.5),
    "kaiming": lambda w, other: nn.init.kaiming_uniform_(w, a=1),
    "constant": lambda w, other: w.data.fill_(3),
    "tail": lambda w, other: w.data.mul_(0.5),
    "row": lambda w, other: nn.init.zeros_(w[0]),
    "column": lambda w, other: init.normal_(w[:, 1]),
    "read": lambda w, other: w.sum().item(),
    "computed": lambda w, other: w.data.copy_(torch.arange(w.numel()).view_as(w)),
    "half": lambda w, other: setattr(w, "data", w.data.bfloat16()),
    "again": lambda w, other: setattr(w, "data", w.data.clone()),
    "copy": lambda w, other: w.data.copy_(other.data if w.shape == other.shape else w.data * 2),
    "clone": lambda w, other: setattr(w, "data", other.data.clone()),
    "deepcopy": lambda w, other: [copy.deepcopy(other)],
    "twins": lambda w, other: twins(),
}


class Ties(nn.Module):
    """Weights of which one is another's, one is part of another, and some are copies."""

    def __init__(self, steps: list[tuple[str, int]]) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.empty(4, 6)) for _ in range(2))
        self.same = self.a
        weights = [self.a, self.b]
        for n, (law, k) in enumerate(steps):
            if n == 2:
                self.part = nn.Parameter(self.b[1:3])
                weights.append(self.part)
            w, other = (weights[i % len(weights)] for i in (k, k + 1))
            with torch.no_grad():
                made = LAWS[law](w, other)
            for new in made if isinstance(made, list) else []:
                self.register_parameter(f"new{len(weights)}", new)
                weights.append(new)


@given(st.lists(st.tuples(st.sampled_from(sorted(LAWS)), st.integers(0, 5)), max_size=8))
@example([("constant", 0), ("tail", 0), ("again", 0), ("column", 0), ("again", 0)])
@pytest.mark.filterwarnings("ignore")
def test_what_the_manifest_tells_makes_the_values_again(steps: list[tuple[str, int]]) -> None:
    with fused(seed=11) as plan:
        model = Ties(steps)
        plan.add_root(model)
        early = plan.manifest()
    manifest = plan.manifest()
    assert early == manifest, "what waits counts as executed"
    with fused(seed=11) as unseen:
        unseen.add_root(Ties(steps))
    assert unseen.manifest() == manifest, "a look changes nothing"
    for name, answer in fastinit.verify(model, plan.to_json()).items():
        status = manifest.named(name).status
        hypothesis.event(f"{status}: {answer}")
        assert answer is (True if status == "filled" else None), f"{name} is {status}"
