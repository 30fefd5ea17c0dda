"""A model for libraries that wrap, shard and offload models, and its values by `build` alone."""

from __future__ import annotations

import modules
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import fastinit


class Model(nn.Module):
    """Its `init_weights` writes what its constructor does: it can be replayed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 15), nn.LayerNorm(15), nn.Linear(15, 5))
        self.init_weights()

    def init_weights(self) -> None:
        self.apply(self._init)

    def _init(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class Computed(Model):
    """It makes values before they are parameters, which nothing can replay."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(4) / 50)


def expected() -> dict[str, Tensor]:
    """What seed 3 gives, without any other library."""
    return modules.copied(fastinit.build(Model, seed=3))


def values(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers, shards gathered."""
    state = model.state_dict().items()
    return {
        name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()
        for name, t in state
    }
