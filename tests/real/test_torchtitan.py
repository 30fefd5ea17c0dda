"""torchtitan's families, sharded as torchtitan does it, hold what the whole models hold."""

from __future__ import annotations

import warnings
from typing import Any

import distributed
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from versions import not_on_oldest

import fastinit
from bench.lib import torchtitan_models
from fastinit.tensors.walk import named_tensors, walk


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def materialised(model: Any) -> Any:
    return fastinit.materialize(model, seed=3)


def by_init_weights(model: Any) -> Any:
    model.to_empty(device="cpu")
    with fastinit.fused(seed=3, root=model), torch.no_grad():
        model.init_weights()
    return model


def sharded(rank: int) -> list[str]:
    warnings.simplefilter("ignore")
    mesh = init_device_mesh("cpu", (2,))
    found = []
    for name, make in torchtitan_models.constructors().items():
        expected = dict(
            named_tensors(walk(fastinit.build(make, seed=3, init_weights=True, strict=False)))
        )
        for route in (materialised, by_init_weights):
            with torch.device("meta"):
                model: Any = make()
            for layer in model.layers.values():
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            actual = dict(named_tensors(walk(route(model))))
            if actual.keys() != expected.keys():
                found.append(f"{name}, {route.__name__}: {actual.keys() ^ expected.keys()}")
            found += [
                f"{name}, {route.__name__}: {n}"
                for n, tensor in actual.items()
                if not torch.equal(whole(tensor.detach()), expected[n].detach())
            ]
    return found


@not_on_oldest("torchtitan needs a later one")
def test_shards_hold_what_the_whole_model_holds() -> None:
    for found in distributed.run(2, sharded):
        assert found == []
