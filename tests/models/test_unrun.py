"""`build` of a model with an `init_weights`: whether something has run it, and `init_weights=`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from modules import copied, quiet, same
from test_replay import Demanding, Later, Marked, Ran
from torch import nn

from fastinit import build


def initialised(model: Any) -> nn.Module:
    model.init_weights()
    return model


class ByData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def init_weights(self) -> None:
        self.linear.weight.data.fill_(3)


class OnlyBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("scale", torch.zeros(3))

    def init_weights(self) -> None:
        self.scale.fill_(3)  # type: ignore[operator]


class OnlyOrthogonal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def init_weights(self) -> None:
        nn.init.orthogonal_(self.linear.weight)


def test_an_init_weights_that_nothing_has_run_is_told() -> None:
    text = "has init_weights, and nothing has run it; pass init_weights=True"
    for make in (Later, Ran, lambda: Demanding(3, 3), ByData, OnlyBuffers, OnlyOrthogonal):
        with pytest.warns(UserWarning, match=text):
            build(make, strict=False)
        quiet(lambda make=make: build(make, init_weights=False, strict=False))
    for make in (Marked, lambda: nn.Linear(3, 3)):
        quiet(lambda make=make: build(make))
    with pytest.raises(ValueError, match="init_weights=True, but Linear has none"):
        build(lambda: nn.Linear(3, 3), init_weights=True)

    def ran() -> nn.Module:
        model = Ran()
        model.init_weights()
        return model

    quiet(lambda: build(ran))
    for kind in (ByData, OnlyBuffers, OnlyOrthogonal):
        quiet(lambda kind=kind: build(lambda: initialised(kind())))
    assert same(copied(build(ran, seed=1)), copied(build(Ran, seed=1, init_weights=True)))
