"""DeepSpeed ZeRO-3: filled models are partitioned as they are, placeholders refused by name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import distributed
import pytest
import torch
from modules import copied, same
from torch import Tensor, nn
from wrapped import Model, expected

import fastinit
from fastinit import build, fused, init

CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
}
MARK = "is DeepSpeed's placeholder for a partitioned parameter of shape"


class Ruled(fastinit.BaseModule):
    def __init__(self) -> None:
        super().__init__(dict(type="Kaiming", layer="Linear"))
        self.linear = nn.Linear(8, 15)


def deepspeed() -> Any:
    """DeepSpeed, without its own collectives, which it would compile for a minute."""
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def gathered(model: nn.Module) -> dict[str, Tensor]:
    with deepspeed().zero.GatheredParameters(list(model.parameters())):
        return copied(model)


def engine_of(model: nn.Module) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    engine, *_ = deepspeed().initialize(model=model, optimizer=optimizer, config=CONFIG)
    return engine


def partitioned(make: Callable[[], nn.Module] = Model) -> Any:
    """A model that has been constructed within `zero.Init`."""
    torch.manual_seed(1)
    with deepspeed().zero.Init(config_dict_or_path=CONFIG):
        return make()


def initialized() -> dict[str, Tensor]:
    engine = engine_of(build(Model, seed=3))
    assert [p.numel() for p in engine.module.parameters()] == [0] * 6
    return gathered(engine.module)


def converted() -> dict[str, Tensor]:
    model = build(Model, seed=3)
    deepspeed().zero.Init(module=model, config_dict_or_path=CONFIG)
    return gathered(model)


def filled_on_all() -> dict[str, Tensor]:
    model = partitioned()
    with deepspeed().zero.GatheredParameters(list(model.parameters()), modifier_rank=0):
        with fused(seed=3, root=model) as plan:
            model.init_weights()
        manifest = plan.to_json()
    assert set(fastinit.verify(model, manifest).values()) == {None}, "nothing is told of them"
    with deepspeed().zero.GatheredParameters(list(model.parameters())):
        assert all(fastinit.verify(model, manifest).values())
    return gathered(model)


def filled_on_rank_0() -> dict[str, Tensor]:
    model = partitioned()
    with deepspeed().zero.GatheredParameters(list(model.parameters()), modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            with fused(seed=3, root=model):
                model.init_weights()
    return gathered(model)


ROUTES = (initialized, converted, filled_on_all, filled_on_rank_0)


def unheard() -> bool:
    """Whether DeepSpeed drops what is not to be broadcast, and what `.data` of a placeholder gets,
    fastinit or not: docs/distributed.md warns of both."""
    model = partitioned()
    before = gathered(model)
    if torch.distributed.get_world_size() > 1:  # what one rank gathers is its own memory
        gathering = deepspeed().zero.GatheredParameters(list(model.parameters()))
        with gathering, fused(seed=3, root=model):
            model.init_weights()
    with fused(seed=3):
        for parameter in model.parameters():
            parameter.data.normal_()
    return same(before, gathered(model))


def by_rules(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `init_weights` gives on gathered parameters, and without DeepSpeed."""
    plain, model = Ruled(), partitioned(Ruled)
    with deepspeed().zero.GatheredParameters(list(model.parameters()), modifier_rank=0):
        for each in (plain, model):
            torch.manual_seed(seed)
            each.init_weights()
    return gathered(model), copied(plain)


def refusals() -> dict[str, str]:
    """What is said of placeholders, by what was asked for; each stays as it was."""
    model, ruled = partitioned(), partitioned(Ruled)
    weight = model.layers[0].weight
    before = gathered(model) | gathered(ruled)

    def in_init() -> None:
        with deepspeed().zero.Init(config_dict_or_path=CONFIG):
            build(Model, seed=3)

    def in_init_on_meta() -> None:
        with deepspeed().zero.Init(config_dict_or_path=CONFIG):
            build(Model, device="meta", seed=3)

    def in_fused() -> None:
        with fused(seed=3):
            nn.init.normal_(weight)

    acts: dict[str, Callable[[], object]] = {
        "fused with a root": lambda: fused(seed=3, root=model).__enter__(),
        "init_weights": ruled.init_weights,
        "initialize": lambda: fastinit.initialize(ruled, dict(type="Normal", layer="Linear")),
        "build within Init": in_init,
        "build within Init, on meta": in_init_on_meta,
        "build around Init": lambda: build(partitioned, seed=3),
        "fused without a root": in_fused,
        "a function": lambda: init.kaiming_uniform_(weight),
    }
    said = {}
    for name, act in acts.items():
        try:
            act()
        except ValueError as error:
            said[name] = str(error)
        else:
            said[name] = "nothing"
    assert same(before, gathered(model) | gathered(ruled))
    return said


def ranks(rank: int) -> tuple[list[str], tuple[bool, bool], dict[str, str], list[float]]:
    warnings.simplefilter("ignore")
    world = torch.distributed.get_world_size()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    deepspeed().init_distributed("gloo")
    wanted = expected()
    wrong = [route.__name__ for route in ROUTES if not same(wanted, route())]
    are = same(*by_rules(seed=5)), unheard()
    said = refusals()
    engine = engine_of(build(Model, seed=3))  # last: it trains
    losses = []
    for _ in range(2):
        loss = engine(torch.ones(2, 8)).square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return wrong, are, said, losses


def losses_without() -> list[float]:
    model = build(Model, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(2):
        loss = model(torch.ones(2, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("world", [1, 2])
def test_ranks_hold_what_one_process_has(world: int, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("deepspeed")
    if world == 1 and not request.config.getoption("--thorough"):
        pytest.skip("with --thorough")
    for answer in distributed.run(world, ranks):
        assert not isinstance(answer, str), answer
        wrong, (is_ruled, is_unheard), said, losses = answer
        assert wrong == []
        assert is_ruled
        assert is_unheard
        assert [
            name for name, text in said.items() if "is DeepSpeed's placeholder" not in text
        ] == []
        named = ("fused with a root", "build within Init", "build around Init")
        assert {said[name].split()[0] for name in named} == {"layers.0.weight"}
        assert {said[name].split()[0] for name in ("init_weights", "initialize")} == {
            "linear.weight"
        }
        assert losses == pytest.approx(losses_without())
