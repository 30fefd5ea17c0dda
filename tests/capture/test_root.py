"""`fused(root=..., prefix=...)`: names for any code."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from modules import copied, same
from torch import nn

import fastinit
from fastinit import build, fused


class Net(nn.Module):
    def __init__(self, is_late: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4, padding_idx=2)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(4))
        if not is_late:
            self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.embed.weight, std=0.02)
        with torch.no_grad():
            self.embed.weight[2].fill_(0)
        for layer in self.layers:
            layer.reset_parameters()
            nn.init.trunc_normal_(layer.weight, std=0.02)
        self.scale.data.copy_(torch.rand(4))


def test_own_initialisation_gives_what_build_gives() -> None:
    expected = copied(build(Net, seed=3))
    net = Net(is_late=True)
    nn.Linear(3, 3)
    with fused(seed=3, root=net):
        nn.init.normal_(torch.empty(9))
        net.init_weights()
    assert same(expected, copied(net))


def test_parameters_that_are_replaced_in_the_block_keep_their_names() -> None:
    expected = copied(build(Net, seed=3))
    with torch.device("meta"):
        net = Net(is_late=True)
    with fused(seed=3, root=net) as plan:
        net.to_empty(device="cpu")
        mask = torch.eye(3, device="cpu").to_sparse()
        net.register_buffer("mask", mask, persistent=False)  # beside what is named again
        net.head.weight = net.embed.weight
        net.init_weights()
    assert same(expected, copied(net))
    assert not plan.order_dependent()


def test_a_prefix_is_part_of_every_name() -> None:
    def values(prefix: str) -> dict[str, torch.Tensor]:
        net = nn.Sequential(nn.Linear(4, 4))
        with fused(seed=1, root=net, prefix=prefix):
            net[0].reset_parameters()
            temporary = nn.init.normal_(torch.empty(4))
        return {**copied(net), "temporary": temporary}

    whole = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4))})
    with fused(seed=1, root=whole):
        whole["a"][0].reset_parameters()
    first, second, plain = values("a."), values("b."), values("")
    for name, value in first.items():
        assert not torch.equal(value, second[name])
        assert not torch.equal(value, plain[name])
    assert torch.equal(first["0.weight"], whole["a"][0].weight)


def test_an_inner_block_adds_its_root_to_the_outer_plan() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    with fused(seed=1, root=one, prefix="a.") as outer:
        with fused(root=other, prefix="b.") as inner:
            assert inner is outer
            nn.init.normal_(other.weight)
        nn.init.normal_(one.weight)
        names = {t.name for t in outer.manifest().tensors}
    assert names == {"a.weight", "a.bias", "#1/a.b.weight", "#1/a.b.bias"}


@pytest.mark.parametrize("root", [nn.Parameter(torch.zeros(2)), "model", nn.Linear])
def test_a_root_is_a_module(root: object) -> None:
    with pytest.raises(TypeError, match="root must be a module"), fused(root=root):  # type: ignore[arg-type]
        pass


def here(function: Callable[[], object]) -> int:
    function()
    return function.__code__.co_firstlineno


def test_an_account_tells_the_line_that_asked() -> None:
    net = nn.Linear(2, 2)
    with fused(root=net) as plan:
        line = here(lambda: nn.init.normal_(net.weight))
        origins = [t.fills[0].origin for t in plan.manifest().tensors if t.fills]
    assert origins == [f"test_root.<lambda>, line {line}"]
    assert fastinit.verify(net, plan.to_json())["weight"] is True


def test_two_models_with_one_seed_and_the_same_names_are_told() -> None:
    seed = 987654321
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = build(lambda: nn.Linear(2, 2), seed=seed)
        with fused(seed=seed, root=first):  # the same one once more
            pass
        others = [
            build(lambda: nn.Linear(2, 2), seed=seed + 1),
            build(lambda: nn.Linear(2, 2), seed=seed, prefix="b."),
            build(lambda: nn.Linear(2, 2, bias=False), seed=seed),
            build(lambda: nn.Linear(2, 2)),
        ]
    assert len(others) == 4
    with pytest.warns(UserWarning, match="initialised with seed=987654321.*need a prefix="):
        second = build(lambda: nn.Linear(2, 2), seed=seed)
    assert torch.equal(first.weight, second.weight)
    with torch.device("meta"):
        third = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="^materialize: another model"):
        fastinit.materialize(third, seed=seed)


def test_verify_takes_a_prefix_and_tells_of_names_that_have_nothing_in_common() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    with fused(seed=77, root=net, prefix="tower.") as plan:
        net[0].reset_parameters()
    assert fastinit.verify(net, plan.to_json(), prefix="tower.") == {
        "0.weight": True,
        "0.bias": True,
    }
    with pytest.warns(UserWarning, match=r"none of the model's 2 names: it has tower\.0\.weight"):
        assert fastinit.verify(net, plan.to_json()) == {"0.weight": None, "0.bias": None}
    with fused(seed=78) as numbered:
        net[0].reset_parameters()
    with pytest.warns(UserWarning, match=r"it has #0, .*give it root=model"):
        fastinit.verify(net, numbered.to_json())
    with pytest.raises(TypeError, match="verify: model must be a module, got a str"):
        fastinit.verify(plan.to_json(), net)  # type: ignore[arg-type]


def test_a_manifest_is_written_where_build_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "init.json"
    net = build(Net, seed=79, manifest=path)
    answers = fastinit.verify(net, path.read_text())
    assert answers["layers.0.weight"] is True
    assert False not in answers.values()
    whole = fastinit.regenerate(path.read_text(), "layers.1.bias")
    assert torch.equal(whole, net.layers[1].bias)
