"""mmengine's own BaseModule in a plan: the means that it compares are not read."""

from __future__ import annotations

from typing import Any

import distributed
import mmengine.model
import pytest
import torch
from lines import Lines
from mmengine.logging import MMLogger
from modules import copied, same
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastinit
from fastinit import build, fused

RULES = [
    {"type": "Kaiming", "layer": "Conv2d"},
    {"type": "TruncNormal", "layer": "Linear", "std": 0.02, "bias": 1},
]


def made(library: Any) -> Any:
    """The same model on the BaseModule of either library."""

    class Block(library.BaseModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__({"type": "Xavier", "layer": "Linear"})
            self.linear = nn.Linear(6, 6)

    class Net(library.BaseModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(RULES)
            self.conv = nn.Conv2d(3, 6, 3)
            self.norm = nn.BatchNorm2d(6)
            self.block = Block()
            self.head = nn.Linear(6, 2)

        def init_weights(self) -> None:
            super().init_weights()
            nn.init.zeros_(self.norm.weight)

    return Net()


def test_values_are_those_of_our_base_module(fill_sizes: list[int]) -> None:
    theirs = build(lambda: made(mmengine.model), seed=3, init_weights=True)
    assert len(fill_sizes) == 1
    ours = build(lambda: made(fastinit), seed=3, init_weights=True)
    assert same(copied(theirs), copied(ours))
    in_place = made(mmengine.model)
    with fused(seed=3, root=in_place) as plan:
        in_place.init_weights()
    assert same(copied(theirs), copied(in_place))
    assert not any("@" in tensor.name for tensor in plan.manifest().tensors)


def test_its_report_is_what_it_is_without_a_plan(mmengine_loggers: None) -> None:
    logger = MMLogger.get_instance("means", log_level="INFO")  # the current one from now on
    told = []
    for is_planned in (False, True):
        handler = Lines()
        logger.addHandler(handler)
        try:
            if is_planned:
                with fused(seed=1):
                    made(mmengine.model).init_weights()
            else:
                made(mmengine.model).init_weights()
        finally:
            logger.removeHandler(handler)
        told.append(handler.lines)
    assert told[0] == told[1]
    assert any("TruncNormalInit" in line for line in told[0])


def test_other_means_are_read() -> None:
    linear = nn.Linear(4, 4)
    with fused(seed=1):
        nn.init.constant_(linear.weight, 3.0)
        assert linear.weight.mean().item() == 3
        assert linear.weight.data.mean(0).tolist() == [3.0] * 4


def sharded(rank: int) -> list[str]:
    expected, net = made(mmengine.model), made(mmengine.model)
    fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
    for model in (expected, net):
        with fused(seed=5, root=model):
            model.init_weights()
    shards = dict(net.named_parameters())
    return [n for n, p in expected.named_parameters() if not p.equal(shards[n].full_tensor())]


@pytest.mark.parametrize("world", [2])
def test_on_shards(world: int) -> None:
    torch.manual_seed(0)
    for found in distributed.run(world, sharded):
        assert found == []
