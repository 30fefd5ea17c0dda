"""What a model's code computes on meta is computed in memory by `materialize`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import copied, same
from torch import nn

import fastinit
from fastinit import build, fused, materialize, verify


class Written(nn.Module):
    """A parameter and a counter, initialised by `code`."""

    def __init__(self, code: Callable[[Any], object]) -> None:
        super().__init__()
        self.code = code
        self.w = nn.Parameter(torch.empty(4, 4))
        self.other = nn.Parameter(torch.empty(4, 4))
        self.register_buffer("steps", torch.empty((), dtype=torch.int64))

    def init_weights(self) -> None:
        with torch.no_grad():
            nn.init.normal_(self.w)
            nn.init.normal_(self.other)
            self.steps.zero_()
            self.code(self)


def on_meta(code: Callable[[Any], object]) -> Written:
    with torch.device("meta"):
        return Written(code)


def set_data(m: Written) -> None:
    m.w.data = m.w.data / 4


def copy_and_change(m: Written) -> None:
    m.w.copy_(torch.ones(4, 4, device="cpu"))
    m.w.mul_(2)


COMPUTING: dict[str, tuple[Callable[[Any], object], str]] = {
    "other data": (set_data, "w"),
    "copied, then changed": (copy_and_change, "w"),
    "counted": (lambda m: m.steps.add_(5), "steps"),
    "in place by an argument": (lambda m: nn.functional.relu(m.w, inplace=True), "w"),
    "in place by a function": (lambda m: torch.clamp(m.w, min=0, out=m.w), "w"),
    "read": (lambda m: m.w.mul_(m.other.norm().item()), "w"),
    "of NumPy": (lambda m: m.w.numpy().__setitem__(0, 3.0), "w"),
    "orthogonal": (lambda m: nn.init.orthogonal_(m.w), "w"),
}


@pytest.mark.parametrize("name", COMPUTING)
def test_what_code_computes_is_what_it_computes_in_memory(name: str) -> None:
    code, computed = COMPUTING[name]
    model = materialize(on_meta(code), seed=1)
    expected = Written(code)
    with fused(seed=1, root=expected) as plan:
        expected.init_weights()
    assert same(copied(expected), copied(model))
    if name != "read":  # which ends in a tail
        assert plan.manifest().named(computed).status == "computed"
    assert all(answer is not False for answer in verify(expected, plan.to_json()).values())


def test_a_tie_made_by_the_code() -> None:
    def tie(m: Written) -> None:
        m.w = m.other

    for code in (tie, lambda m: setattr(m, "other", m.w)):
        model = materialize(on_meta(code), seed=3)
        assert model.w is model.other
        with fused(seed=3) as plan:
            expected = Written(lambda m: None)
            plan.add_root(expected)
            expected.init_weights()
        assert torch.equal(model.w, expected.other if code is tie else expected.w)


def test_places_taken_by_the_code() -> None:
    def foreign(m: Written) -> None:
        m.w = nn.Parameter(torch.empty(4, 4).normal_())
        m.table = torch.arange(3.0)

    for code in (foreign, lambda m: m.bfloat16()):
        model = materialize(on_meta(code), seed=2)
        expected = Written(code)
        with fused(seed=2, root=expected):
            expected.init_weights()
        assert same(copied(expected), copied(model))
        assert torch.equal(getattr(expected, "table", model.w), getattr(model, "table", model.w))


def test_a_weak_reference_is_named() -> None:
    model = build(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), device="meta", seed=1)
    held = weakref.ref(model[1].weight)
    with pytest.raises(ValueError, match=r"1\.weight cannot be given memory while something holds"):
        materialize(model)
    assert all(p.is_meta for p in model.parameters())
    del held
    assert materialize(model)[0].weight.std() > 0


def test_a_model_cast_between_building_and_memory() -> None:
    def made() -> nn.Module:
        return nn.Linear(300, 200)

    expected = copied(build(made, seed=2).bfloat16())
    assert same(expected, copied(materialize(build(made, seed=2, device="meta").bfloat16())))
    with pytest.raises(ValueError, match=r"weight was built as float32 and is torch\.float64 now"):
        materialize(build(made, seed=2, device="meta").double())


def test_values_of_code_follow_the_seed() -> None:
    def draws(m: Written) -> None:
        m.w.copy_(torch.randn(4, 4, device="cpu") * 0.02)

    states = []
    for state in (1, 2):
        torch.manual_seed(state)
        states.append(copied(materialize(on_meta(draws), seed=9)))
    assert same(*states)


def read(tensor: torch.Tensor) -> torch.Tensor:
    tensor.sum().item()
    return tensor


REPLACEMENTS: dict[str, Callable[[Any], torch.Tensor]] = {
    "computed": lambda model: model.w * 2,
    "torch's": lambda model: torch.linspace(0, 1, 16).view(4, 4),
    "filled": lambda model: nn.init.uniform_(torch.empty(4, 4)),
    "filled and read": lambda model: read(nn.init.uniform_(torch.empty(4, 4))),
    "of another shape": lambda model: nn.init.uniform_(torch.empty(2, 3)),
    "a copy": lambda model: model.other.detach().clone(),
    "transposed": lambda model: model.w.detach().t(),
    "itself": lambda model: model.w.detach(),
    "a part of itself": lambda model: model.w.detach()[:2],
    "a part": lambda model: model.other.detach()[:2],
}


@pytest.mark.parametrize("how", REPLACEMENTS)
def test_a_parameter_that_init_weights_replaces(how: str, tmp_path: Path) -> None:
    def code(model: Any) -> None:
        model.w = nn.Parameter(REPLACEMENTS[how](model))

    file = tmp_path / "manifest.json"
    expected = build(lambda: Written(code), seed=1, init_weights=True, strict=False, manifest=file)
    assert False not in verify(expected, file.read_text()).values()
    if how == "a part":
        with pytest.raises(ValueError, match="share memory"):
            build(lambda: Written(code), seed=1, init_weights=True, strict=False, device="meta")
        return
    model = build(lambda: Written(code), seed=1, init_weights=True, strict=False, device="meta")
    assert same(copied(expected), copied(materialize(model)))


@pytest.mark.parametrize("which", ["w", "tied"])
def test_one_of_two_names_that_init_weights_replaces(which: str) -> None:
    def code(model: Any) -> None:
        setattr(model, which, nn.Parameter(model.w * 2))

    def made() -> nn.Module:
        model = Written(code)
        model.tied = model.w
        return model

    expected = build(made, seed=1, init_weights=True, strict=False)
    assert not torch.equal(expected.w, expected.tied)
    model = build(made, seed=1, init_weights=True, strict=False, device="meta")
    assert same(copied(expected), copied(materialize(model)))


def test_on_the_torch_backend() -> None:
    with fastinit.backend("torch"), pytest.raises(RuntimeError, match="native backend"):
        materialize(nn.Linear(2, 2, device="meta"))
    with (
        fastinit.backend("torch"),
        fastinit.fused(),
        fastinit.backend("native"),
        pytest.raises(RuntimeError, match="native backend"),
    ):
        materialize(nn.Linear(2, 2, device="meta"))


class ReadsData(nn.Module):
    """Code that only looks at `.data`, which a replay loses nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.sizes = [self.linear.weight.data.numel(), self.linear.bias.data.shape]


def test_what_a_replay_does_not_lose_is_served() -> None:
    with torch.device("meta"):
        model = ReadsData()
    model.init_weights = dict  # a function in C, of which no signature is known
    materialize(model, seed=1)
    assert same(copied(build(ReadsData, seed=1)), copied(model))


def test_an_init_weights_may_be_an_attribute() -> None:
    def made() -> nn.Module:
        model = nn.Linear(3, 3)
        model.init_weights = partial(nn.init.constant_, model.weight, 2.0)
        return model

    assert not build(made, seed=1).weight.eq(2).any()
    assert build(made, seed=1, init_weights=True).weight.eq(2).all()
    assert materialize(build(made, seed=1, device="meta", init_weights=True)).weight.eq(2).all()
