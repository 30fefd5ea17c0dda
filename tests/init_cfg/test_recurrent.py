"""Recurrent layers: each gate's matrix, forget biases, projections, orthogonal recurrences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from modules import copied, net, same
from torch import nn

import fastinit
from fastinit import BaseModule, fused, initialize

RECURRENT: list[Any] = [
    (nn.RNN, 1),
    (nn.GRU, 3),
    (nn.LSTM, 4),
    (nn.RNNCell, 1),
    (nn.GRUCell, 3),
    (nn.LSTMCell, 4),
]


def made(kind: Any, **kwargs: Any) -> Any:
    if issubclass(kind, nn.RNNBase):
        kwargs = {"num_layers": 2, "bidirectional": True, **kwargs}
    return kind(80, 64, **kwargs)


@pytest.mark.parametrize(("kind", "gates"), RECURRENT)
class TestRecurrent:
    """Each gate's matrix has the law of a weight of its shape."""

    def test_every_parameter_is_written(self, kind: Any, gates: int, backend: str) -> None:
        model = net(memory=made(kind))
        with fastinit.backend(backend):
            rule = {"type": "Constant", "val": 3, "bias": 5, "layer": [kind.__name__, "Linear"]}
            initialize(model, rule)
        for name, parameter in model.named_parameters():
            assert bool((parameter == (5 if "bias" in name else 3)).all()), name

    def test_fans_are_those_of_a_gate(self, kind: Any, gates: int, backend: str) -> None:
        layer = made(kind)
        with fastinit.backend(backend):
            fastinit.xavier_init(layer, gain=2, distribution="uniform")
        for name, weight in layer.named_parameters():
            if "weight" not in name:
                continue
            out, fan_in = len(weight) // gates, weight.shape[1]
            bound = 2 * math.sqrt(6 / (out + fan_in))
            assert 0.98 * bound < weight.abs().max() <= bound, name

    def test_its_function_is_the_rule(self, kind: Any, gates: int) -> None:
        one, other = made(kind), made(kind)
        torch.manual_seed(3)
        fastinit.kaiming_init(one)
        torch.manual_seed(3)
        initialize(other, {"type": "Kaiming", "layer": kind.__name__})
        assert same(copied(one), copied(other))

    def test_recurrent_weights_have_their_own_rule(
        self, kind: Any, gates: int, backend: str
    ) -> None:
        layer = made(kind)
        rule = {
            "type": "Constant",
            "val": 3,
            "layer": kind.__name__,
            "recurrent": {"type": "Orthogonal", "gain": 2},
        }
        with fastinit.backend(backend):
            initialize(layer, rule)
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.detach().chunk(gates):
                    torch.testing.assert_close(gate @ gate.T, 4 * torch.eye(64))
            elif name.startswith("weight"):
                assert bool((weight == 3).all())

    def test_without_biases(self, kind: Any, gates: int) -> None:
        layer = made(kind, bias=False)
        initialize(layer, {"type": "Constant", "val": 3, "bias": 5, "layer": kind.__name__})
        assert all(bool((parameter == 3).all()) for parameter in layer.parameters())

    def test_a_forget_bias_is_for_lstms(self, kind: Any, gates: int) -> None:
        model = net(linear=nn.Linear(3, 3), memory=made(kind))
        before = copied(model)
        rule = {"type": "Constant", "val": 3, "layer": ["Linear", kind.__name__]}
        if gates != 4:
            message = f"{kind.__name__} 'memory' of Module.*has no forget gate"
            with pytest.raises(ValueError, match=message):
                initialize(model, {**rule, "forget_bias": 1})
            assert same(copied(model), before)
            return
        initialize(model, {**rule, "forget_bias": 1, "bias": 0.25})
        biases = {n: p for n, p in model.memory.named_parameters() if "bias" in n}  # type: ignore[operator]
        for name, bias in biases.items():
            inputs, forget, cell, output = bias.detach().chunk(4)
            assert bool((torch.cat([inputs, cell, output]) == 0.25).all())
            assert bool((forget == ("bias_ih" in name)).all())


def test_an_override_of_a_recurrent_child_is_served() -> None:
    model = net(memory=nn.LSTM(4, 4))
    cfg = {"type": "Normal", "override": {"type": "Constant", "val": 2, "name": "memory"}}
    initialize(model, cfg)
    assert bool((model.memory.weight_hh_l0 == 2).all())  # type: ignore[union-attr]


def test_a_weight_that_a_recurrent_layer_adds_is_written() -> None:
    class Scaled(nn.LSTM):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.weight = nn.Parameter(torch.zeros(3))

    layer = Scaled()
    fastinit.constant_init(layer, 3)
    assert layer.weight.tolist() == [3, 3, 3]


def test_projections_of_an_lstm_are_matrices_of_their_own() -> None:
    layer = nn.LSTM(40, 64, proj_size=16)
    fastinit.xavier_init(layer, distribution="uniform")
    bound = math.sqrt(6 / (16 + 64))
    assert 0.95 * bound < layer.weight_hr_l0.abs().max() <= bound


def test_recurrent_layers_are_filled_by_name() -> None:
    """Under one seed, values do not depend on what else is in the model."""
    rule = {"type": "Xavier", "layer": "LSTM", "recurrent": {"type": "Orthogonal"}}
    alone, among = net(memory=nn.LSTM(4, 4)), net(other=nn.LSTM(8, 2), memory=nn.LSTM(4, 4))
    for model in (alone, among):
        with fused(seed=1, root=model):
            initialize(model, rule)
    assert same(copied(alone.memory), copied(among.memory))  # type: ignore[arg-type]


def test_recurrent_layers_are_in_the_models_one_fill(fill_sizes: list[int]) -> None:
    class Net(BaseModule):
        def __init__(self) -> None:
            super().__init__({"type": "Xavier", "layer": ["GRU", "Linear"]})
            self.memory = nn.GRU(4, 4)
            self.head = nn.Linear(4, 2)

    with fastinit.backend("native"):
        Net().init_weights()
    assert fill_sizes == [6]
