"""Several rules in one init_cfg, each for the layers it names."""

import math

import torch
from torch import nn

from fastinit import BaseModule


class ToyNet(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(32, 64, 3)
        self.linear = nn.Linear(256, 128)
        self.norm = nn.LayerNorm(128)


torch.manual_seed(0)
model = ToyNet(
    init_cfg=[
        dict(type="Kaiming", layer="Conv2d"),
        dict(type="Xavier", layer="Linear", bias=0.1),
    ]
)
norm_before = model.norm.weight.clone()
model.init_weights()

# Kaiming: a normal distribution that preserves the variance behind a ReLU, here over the fan-out.
assert abs(model.conv.weight.std() / math.sqrt(2 / (64 * 3 * 3)) - 1) < 0.03
assert bool((model.conv.bias == 0).all())

# Xavier: a normal distribution between the two fans; each rule has its own bias.
assert abs(model.linear.weight.std() / math.sqrt(2 / (256 + 128)) - 1) < 0.03
assert bool((model.linear.bias == 0.1).all())

# No rule names LayerNorm, so it stays as its constructor left it.
assert torch.equal(model.norm.weight, norm_before)

writers = {"conv": "Kaiming", "linear": "Xavier", "norm": "its constructor"}
print("parameter       written by       mean      std")
for name, value in model.named_parameters():
    by = writers[name.partition(".")[0]]
    print(f"{name:16}{by:17}{value.mean():+.4f}  {value.std():.4f}")
