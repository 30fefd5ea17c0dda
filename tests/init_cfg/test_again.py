"""Initialising again: `init_weights(force=True)` and `reinitialize` reach the children too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mmengine.model
import pytest
import torch
from torch import nn

import fastinit
from fastinit import BaseModule, reinitialize


class Part(BaseModule):
    def __init__(self) -> None:
        super().__init__(dict(type="Normal", layer="Linear", std=0.01))
        self.linear = nn.Linear(30, 30)


class Whole(BaseModule):
    def __init__(self) -> None:
        super().__init__(dict(type="Constant", layer="LayerNorm", val=2.0))
        self.part, self.norm = Part(), nn.LayerNorm(3)


def made() -> Whole:
    whole = Whole()
    whole.init_weights()
    nn.init.ones_(whole.part.linear.weight)
    nn.init.ones_(whole.norm.weight)
    return whole


@pytest.mark.parametrize("again", [lambda m: m.init_weights(force=True), reinitialize])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_children_are_renewed(again: Callable[[Any], object], backend: str) -> None:
    whole = made()
    with fastinit.backend(backend):  # type: ignore[arg-type]
        again(whole)
    assert whole.norm.weight.eq(2).all()
    assert 0.005 < whole.part.linear.weight.std() < 0.02
    assert whole.is_init
    assert whole.part.is_init


class Stubborn(BaseModule):
    """Code that initialises a part again and again, each time with another rule."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Whole()

    def init_weights(self) -> None:
        for std in (3.0, 0.5):
            self.part.part.init_cfg["std"] = std
            self.part.init_weights(force=True)
            self.part.init_weights()  # without force, nothing


@pytest.mark.parametrize("is_inner", [True, False])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_within_an_init_weights_too(backend: str, is_inner: bool) -> None:
    model = Stubborn()
    with fastinit.backend(backend):  # type: ignore[arg-type]
        (fastinit.Sequential(model) if is_inner else model).init_weights()
    assert 0.4 < model.part.part.linear.weight.std() < 0.6
    assert model.part.norm.weight.eq(2).all()


def test_without_force_a_second_call_does_nothing() -> None:
    whole = made()
    whole.init_weights()
    assert whole.norm.weight.eq(1).all()
    whole.is_init = False
    whole.init_weights()
    assert whole.norm.weight.eq(2).all()
    assert whole.part.linear.weight.eq(1).all(), "as in mmengine: a child keeps its own flag"


def test_an_error_leaves_every_flag_as_it_was() -> None:
    whole = made()
    whole.part.init_cfg = dict(type="Normal", layer="Linear", std=-1.0)
    for again in (lambda: whole.init_weights(force=True), lambda: reinitialize(whole)):
        with pytest.raises(RuntimeError):
            again()
        assert whole.is_init
        assert whole.part.is_init
        assert whole.norm.weight.eq(1).all()


def test_any_module_with_an_init_weights() -> None:
    theirs = mmengine.model.BaseModule(dict(type="Constant", layer="Linear", val=3.0))
    theirs.linear = nn.Linear(2, 2)
    theirs.init_weights()
    nn.init.zeros_(theirs.linear.weight)
    reinitialize(theirs)
    assert theirs.linear.weight.eq(3).all()
    with pytest.raises(AttributeError, match="reinitialize: Linear has no init_weights"):
        reinitialize(nn.Linear(2, 2))
    assert torch.is_grad_enabled()
