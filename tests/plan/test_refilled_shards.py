"""A shard that is filled again, with `orthogonal_` among the fills: the whole's, or refused."""

from __future__ import annotations

from collections.abc import Callable

import distributed
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastinit
from fastinit import fused

init = nn.init
Fills = Callable[[Tensor], object]
EQUAL: dict[str, Fills] = {
    "normal, orthogonal": lambda w: (init.normal_(w), init.orthogonal_(w)),
    "zeros, orthogonal": lambda w: (init.zeros_(w), init.orthogonal_(w)),
    "scaled, orthogonal": lambda w: (init.normal_(w).mul_(2), init.orthogonal_(w)),
    "orthogonal": lambda w: init.orthogonal_(w, gain=2),
    "orthogonal, scaled": lambda w: init.orthogonal_(w).mul_(2),
    "orthogonal, zeros": lambda w: (init.orthogonal_(w), init.zeros_(w)),
    "normal, sparse": lambda w: (init.normal_(w), init.sparse_(w, 0.1)),
    "normal, read, normal": lambda w: (init.normal_(w), w.div_(w.norm()), init.normal_(w)),
}
REFUSED: dict[str, Fills] = {
    "twice": lambda w: (init.orthogonal_(w), init.orthogonal_(w)),
    "normal": lambda w: (init.orthogonal_(w), init.normal_(w)),
    "a random row": lambda w: (init.orthogonal_(w), init.normal_(w[1])),
    "zeros, normal": lambda w: (init.orthogonal_(w), init.zeros_(w), init.normal_(w)),
}


def again(rank: int) -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    found = []
    for name, fills in {**EQUAL, **REFUSED}.items():
        whole = nn.Linear(16, 24, bias=False)
        with fused(seed=0, root=whole), torch.no_grad():
            fills(whole.weight)
        with torch.device("meta"):
            model = nn.Linear(16, 24, bias=False)
        fully_shard(model, mesh=mesh).to_empty(device="cpu")
        try:
            with fused(seed=0, root=model), torch.no_grad():
                fills(model.weight)
        except ValueError as error:
            if name in EQUAL or "weight: filled again after orthogonal_" not in str(error):
                found.append(f"{name}: {error}")
        else:
            is_equal = torch.equal(model.weight.full_tensor(), whole.weight)
            if name in REFUSED or not is_equal:
                found.append(f"{name}: {is_equal}")
    return found


def test_a_shard_filled_again_is_the_whole_or_refused() -> None:
    for found in distributed.run_each(2, again, replayed)[again]:
        assert found == []


class Model(nn.Module):
    """`reset_parameters` of the layer first, by a replay."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(16, 24)

    def init_weights(self) -> None:
        nn.init.orthogonal_(self.out.weight)


def replayed(rank: int) -> bool:
    whole = fastinit.build(Model, seed=3, init_weights=True)
    with torch.device("meta"):
        model = Model()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    fastinit.materialize(model, device="cpu", seed=3, strict=False)
    return torch.equal(model.out.weight.full_tensor(), whole.out.weight)


def test_a_replay_of_a_layer_and_then_orthogonal() -> None:
    assert distributed.run_each(2, again, replayed)[replayed] == [True, True]
