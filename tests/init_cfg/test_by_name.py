"""Rules by parameter name, and rules for biases."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import distributed
import pytest
import torch
from modules import constants, copied, same
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.utils import parametrizations

import fastinit
from fastinit import BaseInit, BaseModule, build, fan_groups, fused, initialize


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Attention(), Attention())
        self.qkv = nn.Linear(8, 24)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))


@pytest.fixture
def net() -> Net:
    return Net()


def rule(val: float, params: Any) -> dict[str, Any]:
    return {"type": "Constant", "val": val, "params": params}


def written(model: nn.Module) -> dict[str, float]:
    """Return the names of what rules have filled with whole numbers, and these."""
    return {name: value for name, value in constants(model).items() if value and value % 1 == 0}


class TestParams:
    @pytest.mark.parametrize(
        ("params", "names"),
        [
            ("cls_token", ["cls_token"]),
            ("*.qkv.weight", ["blocks.0.qkv.weight", "blocks.1.qkv.weight", "qkv.weight"]),
            ("blocks.*.qkv.weight", ["blocks.0.qkv.weight", "blocks.1.qkv.weight"]),
            ("blocks.[1-9]*.proj.*", ["blocks.1.proj.bias", "blocks.1.proj.weight"]),
            (["cls_token", "qkv.bias"], ["cls_token", "qkv.bias"]),
        ],
    )
    def test_patterns(self, net: Net, params: Any, names: list[str], backend: str) -> None:
        with fastinit.backend(backend):
            initialize(net, rule(7, params))
        assert sorted(written(net)) == names

    def test_the_first_rule_that_matches_wins(self, net: Net, backend: str) -> None:
        with fastinit.backend(backend):
            initialize(net, [rule(1, "qkv.weight"), rule(2, "*.qkv.weight"), rule(3, "*.qkv.*")])
        assert written(net) == {
            "qkv.weight": 1,
            "blocks.0.qkv.weight": 2,
            "blocks.1.qkv.weight": 2,
            "qkv.bias": 3,
            "blocks.0.qkv.bias": 3,
            "blocks.1.qkv.bias": 3,
        }

    def test_a_name_is_more_than_a_class(self, net: Net) -> None:
        """Rules by name come after those for layers, wherever they stand."""
        layers = {"type": "Constant", "val": 2, "layer": "Linear", "bias": 2}
        initialize(net, [rule(1, "qkv.weight"), layers])
        assert written(net)["qkv.weight"] == 1
        assert written(net)["qkv.bias"] == 2

    def test_children_win_over_their_parent(self) -> None:
        class Child(BaseModule):
            def __init__(self) -> None:
                super().__init__({"type": "Constant", "val": 1, "layer": "Linear"})
                self.linear = nn.Linear(2, 2)

        class Parent(BaseModule):
            def __init__(self) -> None:
                super().__init__(rule(2, "*.weight"))
                self.child = Child()
                self.linear = nn.Linear(2, 2)

        parent = Parent()
        parent.init_weights()
        assert constants(parent)["child.linear.weight"] == 1
        assert constants(parent)["linear.weight"] == 2

    def test_names_are_below_the_module_that_has_the_rule(self, net: Net) -> None:
        initialize(net.blocks, rule(4, "1.qkv.weight"))
        assert sorted(written(net)) == ["blocks.1.qkv.weight"]

    def test_names_of_wrappers_are_left_out(self, net: Net) -> None:
        initialize(torch.nn.DataParallel(net), rule(4, "qkv.weight"))
        assert sorted(written(net)) == ["qkv.weight"]

    def test_in_an_override(self, net: Net) -> None:
        override = {**rule(4, "qkv.weight"), "name": "blocks"}
        with pytest.warns(UserWarning, match="pattern 'qkv.weight' .*nearest: '[01].qkv.weight'"):
            initialize(net, {"type": "Normal", "override": override})
        initialize(net, {"type": "Normal", "override": {**override, "params": "0.qkv.weight"}})
        assert sorted(written(net)) == ["blocks.0.qkv.weight"]

    def test_tied_parameters_have_all_their_names(self, net: Net) -> None:
        net.qkv.weight = net.blocks[0].qkv.weight  # type: ignore[union-attr]
        initialize(net, rule(5, "qkv.weight"))
        assert bool((net.blocks[0].qkv.weight == 5).all())  # type: ignore[union-attr]

    def test_the_first_rule_counts_for_all_names_of_a_parameter(self, net: Net) -> None:
        net.qkv.weight = net.blocks[0].qkv.weight  # type: ignore[union-attr]
        initialize(net, [rule(1, "qkv.weight"), rule(2, "*.weight")])
        assert bool((net.blocks[0].qkv.weight == 1).all())  # type: ignore[union-attr]
        assert bool((net.blocks[1].qkv.weight == 2).all())  # type: ignore[union-attr]

    def test_a_module_of_two_names(self, net: Net) -> None:
        net.again = net.qkv
        initialize(net, rule(5, "again.weight"))
        assert bool((net.qkv.weight == 5).all())

    def test_tensors_that_are_no_parameters_are_left_alone(self, net: Net) -> None:
        net.class_weight, net.anchors = torch.tensor([0.25, 0.75]), torch.arange(3)  # type: ignore[assignment]
        initialize(net, rule(5, "*"))
        assert net.class_weight.tolist() == [0.25, 0.75]
        assert net.anchors.tolist() == [0, 1, 2]

    def test_an_initializer_may_be_called_again(self, net: Net) -> None:
        initializer = fastinit.ConstantInit(3, params="*.weight")
        for _ in range(2):
            nn.init.zeros_(net.qkv.weight)
            initializer(net)
            assert bool((net.qkv.weight == 3).all())

    def test_loaded_values_stay(self, net: Net, tmp_path: Path) -> None:
        torch.save({"qkv.weight": torch.full((24, 8), 4.0)}, tmp_path / "a.pth")
        loads = {"type": "Pretrained", "checkpoint": str(tmp_path / "a.pth")}
        initialize(net, [rule(1, "qkv.weight"), loads])
        assert bool((net.qkv.weight == 4).all())
        initialize(net, [loads, rule(1, "qkv.weight")])
        assert bool((net.qkv.weight == 1).all())

    def test_an_override_does_not_write_what_is_taken(self, net: Net) -> None:
        override = {**rule(9, "*.qkv.weight"), "name": "blocks"}
        first = rule(1, "blocks.0.qkv.weight")
        initialize(net, [first, {"type": "Normal", "params": "cls_token", "override": override}])
        assert written(net) == {"blocks.0.qkv.weight": 1, "blocks.1.qkv.weight": 9}

    def test_a_parametrized_weight_has_its_own_name(self) -> None:
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
        initialize(model, rule(3, "*"))
        torch.testing.assert_close(model[0].weight, torch.full((4, 4), 3.0))

    def test_fans_and_fan_groups(self, net: Net) -> None:
        xavier = {"type": "Xavier", "distribution": "uniform", "params": "*.qkv.weight"}
        with fan_groups({"*.qkv.weight": 3}):
            initialize(net, xavier)
        bound = math.sqrt(6 / 16)
        assert 0.9 * bound < net.qkv.weight.abs().max() <= bound

    def test_a_vector_has_no_fans(self, net: Net) -> None:
        before = copied(net)
        message = (
            r"XavierInit.* does not suit parameter 'blocks.0.qkv.bias' of Net with a shape "
            r"\(24,\).*narrow 'params', now \['\*'\]"
        )
        with fastinit.backend("native"), pytest.raises(ValueError, match=message):
            initialize(net, {"type": "Xavier", "params": "*"})
        assert same(copied(net), before)

    def test_values_are_those_of_the_name(self) -> None:
        named, by_layer = Net(), Net()
        normal = {"type": "Normal", "std": 2}
        for model, where in ((named, {"params": "*.weight"}), (by_layer, {"layer": "Linear"})):
            with fused(seed=3, root=model):
                initialize(model, {**normal, **where})
        assert torch.equal(named.blocks[1].qkv.weight, by_layer.blocks[1].qkv.weight)  # type: ignore[union-attr]

    def test_a_pattern_that_matches_nothing(self, net: Net) -> None:
        before = copied(net)
        message = r"pattern '\*.qvk.weight' of the rule Constant.* matches no parameter; nearest"
        with pytest.warns(UserWarning, match=message), fused() as plan:
            initialize(net, rule(4, ["*.qvk.weight"]))
        assert same(copied(net), before)
        assert any("*.qvk.weight" in text for text in plan.manifest().unmatched)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"params": 3}, TypeError, "params must be a pattern .*, got 3"),
            ({"params": [3]}, TypeError, r"params must be a pattern .*, got \[3\]"),
            ({"params": "*", "layer": "Linear"}, ValueError, "params='\\*' .* excludes layer"),
            ({"params": "*", "bias": 1}, ValueError, "excludes layer, bias"),
            ({"params": "*", "forget_bias": 1}, ValueError, "excludes layer, bias"),
            ({"layer": "LSTM", "forget_bias": "1"}, TypeError, "forget_bias must be a number"),
            ({"bias": {"type": "Normal"}, "bias_prob": 0.1}, ValueError, "not both"),
            ({"layer": "LSTM", "recurrent": 1}, TypeError, "recurrent must be a rule, .* got 1"),
        ],
    )
    def test_mistakes(self, net: Net, arguments: Any, error: Any, message: str) -> None:
        before = copied(net)
        with pytest.raises(error, match=message):
            initialize(net, {"type": "Normal", **arguments})
        assert same(copied(net), before)

    def test_initializers_that_know_layers_only(self, net: Net) -> None:
        class Mine(BaseInit):
            def init_layer(self, module: nn.Module) -> None:
                raise AssertionError

        with pytest.raises(TypeError, match="Mine writes layers, not single parameters; use layer"):
            initialize(net, {"type": Mine, "params": "*"})
        with pytest.raises(TypeError, match=r"bias=.*does not tell how to write one parameter"):
            initialize(net, {"type": "Normal", "layer": "Linear", "bias": {"type": Mine}})


class TestBiasRules:
    def test_a_bias_has_its_own_distribution(self, net: Net, backend: str) -> None:
        bias = {"type": "Uniform", "a": 2, "b": 3}
        with fastinit.backend(backend), warnings.catch_warnings():
            warnings.simplefilter("error")
            initialize(net, {"type": "Constant", "val": 1, "layer": "Linear", "bias": bias})
        assert bool((net.qkv.weight == 1).all())
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                assert bool(((parameter >= 2) & (parameter < 3)).all())
                assert parameter.std() > 0

    def test_of_recurrent_layers(self) -> None:
        layer = nn.GRU(4, 4)
        bias = {"type": "Constant", "val": 2}
        initialize(layer, {"type": "Normal", "layer": "GRU", "bias": bias})
        assert bool((layer.bias_hh_l0 == 2).all())

    def test_in_an_override_that_takes_the_rule_over(self, net: Net) -> None:
        bias = {"type": "Constant", "val": 2}
        override = {"name": "blocks"}
        initialize(net, {"type": "Normal", "bias": bias, "override": override})
        assert bool((net.blocks[0].qkv.bias == 2).all())  # type: ignore[union-attr]

    def test_its_fans_are_its_own(self, net: Net) -> None:
        with pytest.raises(ValueError, match="fewer than 2 dimensions"):
            initialize(net, {"type": "Normal", "layer": "Linear", "bias": {"type": "Xavier"}})

    @pytest.mark.parametrize(
        ("bias", "error", "message"),
        [
            ({"type": "Unifrm"}, KeyError, "did you mean 'Uniform'"),
            ({"a": 2}, KeyError, "needs the key 'type'"),
            ({"type": "Uniform", "layer": "Linear"}, ValueError, "leave out layer"),
            ({"type": "Uniform", "bias": 3}, ValueError, "leave out bias"),
            ({"type": "Uniform", "keep_padding": True}, ValueError, "leave out keep_padding"),
            ({"type": "Pretrained", "checkpoint": "x"}, TypeError, "does not tell how to write"),
        ],
    )
    def test_mistakes(self, net: Net, bias: Any, error: Any, message: str) -> None:
        with pytest.raises(error, match=message):
            initialize(net, {"type": "Normal", "layer": "Linear", "bias": bias})


class Everything(BaseModule):
    """A model with all kinds of rules."""

    def __init__(self) -> None:
        super().__init__(
            [
                {"type": "Normal", "params": ["*.qkv.weight", "cls_token"], "std": 0.02},
                {
                    "type": "Xavier",
                    "layer": ["Linear", "LSTM"],
                    "bias": {"type": "Uniform", "a": -1, "b": 1},
                    "recurrent": {"type": "Orthogonal"},
                    "forget_bias": 1,
                },
                {"type": "Normal", "layer": "Embedding", "keep_padding": True},
                {"type": "Kaiming", "layer": "Conv2d", "fan_mode": "effective"},
            ]
        )
        self.net = Net()
        self.cls_token = nn.Parameter(torch.zeros(3))
        self.memory = nn.LSTM(4, 4)
        self.embedding = nn.Embedding(6, 4, padding_idx=1)
        self.conv = nn.Conv2d(4, 8, 3, groups=2)


def test_every_route_agrees() -> None:
    """One set of values under one seed."""
    built = build(Everything, seed=3, init_weights=True)
    on_meta = build(Everything, device="meta", init_weights=True, seed=3)
    fastinit.materialize(on_meta, device="cpu")
    in_place = Everything()
    with fused(seed=3, root=in_place):
        in_place.init_weights()
    assert same(copied(built), copied(on_meta))
    assert same(copied(built), copied(in_place))


def ruled(rank: int) -> list[str]:
    """What differs between shards and the whole, by name."""
    mesh = init_device_mesh("cpu", (2,))
    found = []
    for place in (lambda dims: 0, lambda dims: dims - 1):
        whole, model = Everything(), Everything()
        for module in model.modules():
            for name, p in list(module.named_parameters(recurse=False)):
                tensor = distribute_tensor(p.data, mesh, [Shard(place(p.dim()))])
                setattr(module, name, nn.Parameter(tensor))
        for each in (whole, model):
            with fused(seed=3, root=each):
                each.init_weights()
        shards = dict(model.named_parameters())
        for name, p in whole.named_parameters():
            if not torch.equal(p, shards[name].full_tensor()):  # type: ignore[operator]
                found.append(name)
    return found


def test_shards_hold_what_the_whole_holds() -> None:
    for found in distributed.run(2, ruled):
        assert found == []
