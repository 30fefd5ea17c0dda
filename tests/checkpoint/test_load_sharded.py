"""A checkpoint that is loaded into shards is the one that is loaded whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import distributed
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import fastinit


class Net(fastinit.BaseModule):
    """Sizes that no mesh divides; the file has no head."""

    def __init__(self, path: str) -> None:
        super().__init__(
            [
                {"type": "Normal", "layer": "Linear"},
                {"type": "Pretrained", "checkpoint": path, "interpolate_pos_embed": True},
            ]
        )
        self.body = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
        self.head = nn.Linear(5, 3)
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, 6))


def rows(net: nn.Module, mesh: Any) -> None:
    for module in net.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(distribute_tensor(p.data, mesh, [Shard(0)])))


def fsdp(net: nn.Module, mesh: Any) -> None:
    fully_shard(net, mesh=mesh)


def loaded(rank: int, world: int, path: str) -> list[str]:
    mesh = init_device_mesh("cpu", (world,))
    expected = Net(path)
    with fastinit.fused(seed=1, root=expected):
        expected.init_weights()
    found = []
    for style in (rows, fsdp):
        net = Net(path)
        style(net, mesh)
        with fastinit.fused(seed=1, root=net):
            net.init_weights()
        shards = dict(net.named_parameters())
        found += [
            f"{style.__name__}: {name}"
            for name, p in expected.named_parameters()
            if not torch.equal(p, shards[name].full_tensor())  # type: ignore[operator]
        ]
        if not torch.equal(expected.body[1].running_mean, net.body[1].running_mean):
            found.append(f"{style.__name__}: running_mean")
    return found


@pytest.mark.parametrize(("world", "name"), [(2, "a.pth"), (4, "a.safetensors")])
def test_shards_hold_what_the_whole_holds(world: int, name: str, tmp_path: Path) -> None:
    state = {
        **{n: torch.randn(t.shape) for n, t in Net("").body.state_dict(prefix="body.").items()},
        "pos_embed": torch.randn(1, 9, 6),
    }
    path = tmp_path / name
    (safetensors.torch.save_file if "safe" in name else torch.save)(state, path)
    for found in distributed.run(world, loaded, world, str(path)):
        assert found == []
