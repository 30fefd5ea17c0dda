"""Parameters that hold several matrices: each has the values it would have alone, by its fans."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastinit
from fastinit import BaseModule, build, fan_groups, fused, init
from fastinit.plan.fan_groups import parts


class Attention(BaseModule):
    """Queries, keys and values in one weight; experts in a stack."""

    def __init__(self, fill: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.qkv = nn.Linear(60, 240, bias=False)
        self.experts = nn.Parameter(torch.empty(5, 40, 60))
        self.other = nn.Linear(60, 240, bias=False)
        self.fill = fill

    def init_weights(self) -> None:
        for parameter in self.parameters():
            self.fill(parameter)


FILLS: dict[str, Callable[[Tensor], Any]] = {
    "xavier_uniform": lambda t: nn.init.xavier_uniform_(t, gain=2.0),
    "xavier_normal": lambda t: init.xavier_normal_(t),
    "kaiming_uniform": lambda t: init.kaiming_uniform_(t, mode="fan_out"),
    "kaiming_normal": lambda t: nn.init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"),
}
GROUPS = {"qkv.weight": [120, 60, 60], "experts": ("stacked", 2)}


def initialised(fill: Callable[[Tensor], Any], groups: Any) -> tuple[Attention, Any]:
    with fan_groups(groups), fused(seed=1) as plan:
        model = Attention(fill)
        model.init_weights()
    return model, plan


def scale(fill: Callable[[Tensor], Any], shape: tuple[int, ...]) -> float:
    """The standard deviation that torch's rule has for a matrix of this shape, from its range."""
    with fastinit.backend("torch"):
        return float(fill(torch.empty(shape)).std())


@pytest.mark.parametrize("name", FILLS)
def test_each_part_has_the_scale_of_its_own_fans(name: str) -> None:
    fill = FILLS[name]
    model, _ = initialised(fill, GROUPS)
    plain, _ = initialised(fill, {})
    for begin, size in ((0, 120), (120, 60), (180, 60)):
        part = model.qkv.weight[begin : begin + size]
        expected = scale(fill, (size, 60))
        assert math.isclose(part.std(), expected, rel_tol=0.1)
        # The same draws as without a declaration, on another scale.
        ratio = part / plain.qkv.weight[begin : begin + size]
        assert torch.allclose(ratio, ratio.mean(), rtol=1e-4)
    for expert in model.experts.view(10, 20, 60):
        assert math.isclose(expert.std(), scale(fill, (20, 60)), rel_tol=0.15)
    assert torch.equal(model.other.weight, plain.other.weight)


def test_without_a_declaration_nothing_changes() -> None:
    for groups in ({}, {"nothing.*": 3}, {"qkv.weight": 1, "experts": (1, [5])}):
        model, _ = initialised(FILLS["xavier_normal"], groups)
        plain = build(lambda: _built(FILLS["xavier_normal"]), seed=1)
        assert torch.equal(model.qkv.weight, plain.qkv.weight)
        assert torch.equal(model.experts, plain.experts)


def _built(fill: Callable[[Tensor], Any]) -> Attention:
    model = Attention(fill)
    model.init_weights()
    return model


def test_rules_without_fans_are_as_they_were() -> None:
    model, _ = initialised(lambda t: init.normal_(t, std=0.02), GROUPS)
    plain, _ = initialised(lambda t: init.normal_(t, std=0.02), {})
    assert torch.equal(model.qkv.weight, plain.qkv.weight)


def test_patterns_apply_to_init_cfg_and_the_last_one_counts() -> None:
    class Head(BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Xavier", layer="Linear", distribution="uniform"))
            self.block = nn.ModuleDict({"kv": nn.Linear(30, 90), "q": nn.Linear(30, 90)})

    bound = {}
    for groups in ({}, {"*.kv.weight": 3}, {"*.weight": 9, "block.?v.weight": 3}):
        with fan_groups(groups):
            head = Head()
            head.init_weights()
        bound[len(groups)] = [float(head.block[k].weight.abs().max()) for k in ("kv", "q")]
    assert bound[0] == pytest.approx([math.sqrt(6 / 120)] * 2, rel=0.01)
    assert bound[1] == pytest.approx([math.sqrt(6 / 60), math.sqrt(6 / 120)], rel=0.01)
    assert bound[2] == pytest.approx([math.sqrt(6 / 60), math.sqrt(6 / 40)], rel=0.01)


def test_the_account_knows_the_parts() -> None:
    model, plan = initialised(FILLS["xavier_uniform"], GROUPS)
    text = plan.to_json()
    assert fastinit.verify(model, text) == {
        "experts": True,
        "qkv.weight": True,
        "other.weight": True,
    }
    assert torch.equal(
        fastinit.regenerate(text, "qkv.weight", slice(100, 200)), model.qkv.weight[100:200]
    )
    assert len(plan.manifest().named("qkv.weight").fills) == 3
    assert len(plan.manifest().named("experts").fills) == 1


@pytest.mark.parametrize("level", [7, 0, -1, [100, 100], "halved", (2, 7), ("stacked",) * 3])
def test_declarations_that_do_not_fit(level: Any) -> None:
    with pytest.raises(ValueError, match=r"fan_groups: .*qkv\.(weight|\*)"):
        initialised(FILLS["xavier_normal"], {"qkv.*": level})


def test_what_is_filled_too_early_for_its_groups_is_named() -> None:
    def reads_early() -> nn.Module:
        model = nn.Linear(4, 6)
        nn.init.xavier_uniform_(model.weight)
        model.bias.data.fill_(float(model.weight.sum()))
        return model

    with fan_groups({"weight": 3}), pytest.warns(UserWarning, match="weight: read by the model's"):
        build(reads_early)


def test_parts_tile_a_parameter() -> None:
    for levels in [(3,), ([1, 2, 3],), ("stacked", 2), (2, "stacked"), ([4, 2], "stacked", 4)]:
        counts = torch.zeros(6, 4, 5)
        for where, shape in parts("x", counts.shape, levels):
            assert counts[where].numel() == math.prod(shape)
            counts[where] += 1
        assert (counts == 1).all(), levels


def test_a_pattern_finds_the_top_too_and_one_that_finds_nothing_is_told() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24, bias=False)
            nn.init.xavier_uniform_(self.qkv.weight)

    def deep() -> nn.Module:
        return nn.ModuleDict({"block": Block()})

    with fused(seed=5):
        plain = build(Block)
    with fan_groups({"*.qkv.weight": 3}):
        grouped, below = build(Block, seed=5), build(deep, seed=5)
    assert not torch.equal(plain.qkv.weight, grouped.qkv.weight)
    assert below["block"].qkv.weight.std() > 0
    text = r"the pattern '\*\.qvk\.weight' matched no parameter.*nearest: 'qkv\.weight'"
    with pytest.warns(UserWarning, match=text), fan_groups({"*.qvk.weight": 3}):
        build(Block, seed=6)
    with pytest.raises(TypeError, match="groups must map patterns"), fan_groups(["qkv.weight"]):  # type: ignore[arg-type]
        pass
