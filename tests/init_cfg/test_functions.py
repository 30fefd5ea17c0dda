"""The module-style functions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import mmengine.model
import pytest
import torch
from modules import constants, copied, same
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

import fastinit
from fastinit import ConstantInit, bias_init_with_prob, initialize


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Linear(5, 7), nn.ReLU()))


class TestBiasWithProb:
    @pytest.mark.parametrize("p", [0.01, 0.5, 0.9])
    def test_is_the_inverse_of_the_sigmoid(self, p: float) -> None:
        assert 1 / (1 + math.exp(-bias_init_with_prob(p))) == pytest.approx(p, rel=1e-12)
        assert bias_init_with_prob(p) == mmengine.model.bias_init_with_prob(p)

    @pytest.mark.parametrize(("p", "bias"), [(1.0, math.inf), (2.0, math.nan)])
    def test_outside_warns(self, p: float, bias: float) -> None:
        with pytest.warns(RuntimeWarning, match="between 0 and 1"):
            assert str(bias_init_with_prob(p)) == str(bias)

    def test_zero(self) -> None:
        with pytest.raises(ZeroDivisionError):
            bias_init_with_prob(0.0)

    def test_wins_over_bias(self) -> None:
        assert ConstantInit(1, bias=3, bias_prob=0.5).bias == 0


class TestModuleFunctions:
    @pytest.mark.parametrize("backend", ["native", "torch"])
    def test_distributions(self, backend: str) -> None:
        linear = nn.Linear(200, 300)
        cases: list[tuple[Any, float, float]] = [
            (lambda: fastinit.normal_init(linear, 1, 0.5, bias=2), 1, 0.5),
            (lambda: fastinit.uniform_init(linear, 1, 3, bias=2), 2, 2 / math.sqrt(12)),
            (lambda: fastinit.trunc_normal_init(linear, 0, 1, -1, 1, bias=2), 0, 0.5396),
            (lambda: fastinit.xavier_init(linear, 2, bias=2), 0, 2 * math.sqrt(2 / 500)),
            (
                lambda: fastinit.xavier_init(linear, bias=2, distribution="uniform"),
                0,
                math.sqrt(2 / 500),
            ),
            (lambda: fastinit.kaiming_init(linear, bias=2), 0, math.sqrt(2 / 300)),
            (
                lambda: fastinit.kaiming_init(
                    linear, mode="fan_in", bias=2, distribution="uniform"
                ),
                0,
                math.sqrt(2 / 200),
            ),
            (lambda: fastinit.caffe2_xavier_init(linear, bias=2), 0, math.sqrt(1 / 200)),
        ]
        torch.manual_seed(0)
        for write, mean, std in cases:
            with fastinit.backend(backend):
                write()
            n = linear.weight.numel()
            assert abs(linear.weight.mean().item() - mean) < 5 * std / math.sqrt(n)
            assert abs(linear.weight.std().item() / std - 1) < 5 / math.sqrt(2 * n)
            assert bool((linear.bias == 2).all())

    def test_absent_parameters_are_skipped(self) -> None:
        fastinit.constant_init(nn.ReLU(), 1)
        norm = nn.LayerNorm(3, bias=False)
        fastinit.constant_init(norm, 5, bias=6)
        assert constants(norm) == {"weight": 5}

    def test_what_has_a_weight_need_be_no_module(self) -> None:
        for library in (fastinit, mmengine.model):
            with fastinit.backend("torch"):
                torch.manual_seed(0)
                layer: Any = SimpleNamespace(weight=torch.zeros(3, 4), bias=torch.zeros(3))
                library.xavier_init(layer, bias=2)
            if library is fastinit:
                ours = layer
        assert torch.equal(ours.weight, layer.weight)
        assert torch.equal(ours.bias, layer.bias)
        fastinit.constant_init(layer, 5)
        assert bool((layer.weight == 5).all())

    def test_a_weight_without_a_way_back_is_told_of(self, backend: str) -> None:
        linear = nn.Linear(3, 3)
        orthogonal(linear, orthogonal_map="cayley", use_trivialization=False)
        before = copied(linear)
        with pytest.warns(UserWarning, match="the weight of this ParametrizedLinear is computed"):
            fastinit.xavier_init(linear, bias=2)
        after = copied(linear)
        assert bool((linear.bias == 2).all())
        assert same({**after, "bias": before["bias"]}, before)

    def test_children_are_left_alone(self, net: nn.Module) -> None:
        before = copied(net)
        fastinit.normal_init(net)
        assert same(copied(net), before)

    @pytest.mark.parametrize("function", [fastinit.xavier_init, fastinit.kaiming_init])
    def test_distribution_is_checked_before_anything_is_written(self, function: Any) -> None:
        linear = nn.Linear(2, 2)
        before = copied(linear)
        with pytest.raises(AssertionError, match="'uniform', 'normal', got 'cauchy'"):
            function(linear, distribution="cauchy")
        assert same(copied(linear), before)

    def test_streams_have_the_names_below_the_module(self) -> None:
        """The same module written on its own and by a rule gets the same values for a seed."""
        one, other = nn.Linear(4, 4), nn.Linear(4, 4)
        torch.manual_seed(3)
        fastinit.normal_init(one)
        torch.manual_seed(3)
        initialize(other, {"type": "Normal", "layer": "Linear"})
        assert torch.equal(one.weight, other.weight)
