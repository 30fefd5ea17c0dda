"""Modules whose parameters no replay can write: refused by name."""

from __future__ import annotations

import warnings

import pytest
import torch
from modules import copied, same
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fastinit import build, materialize


def test_a_parametrized_weight_is_refused_by_name() -> None:
    def made() -> nn.Module:
        return nn.Sequential(weight_norm(nn.Linear(3, 3)))

    with torch.device("meta"):
        model = made()
    with pytest.raises(ValueError, match=r"0\.parametrizations\.weight\.original"):
        materialize(model)
    built = build(made, seed=1, device="meta", strict=False)
    assert same(copied(build(made, seed=1, strict=False)), copied(materialize(built)))


def test_lazy_and_scripted_modules_are_refused_by_name() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"0\.weight, 0\.bias are lazy"):
        materialize(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3)))
    scripted = torch.jit.script(nn.Linear(3, 3, device="meta"))
    with pytest.raises(ValueError, match="contains scripted modules"):
        materialize(nn.Sequential(scripted))


def test_weight_norm_by_hooks_is_refused_by_name() -> None:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)))

    message = r"0\.weight are computed from parameters.*use torch\.nn\.utils\.parametrizations"
    with pytest.raises(ValueError, match=message):
        build(make, device="meta")
    with torch.device("meta"):
        model = make()
    with pytest.raises(ValueError, match=message):
        materialize(model)
    build(make)
