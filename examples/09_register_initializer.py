"""An initializer of one's own, registered under a name that init_cfg then knows."""

import math

import torch
from torch import nn

import fastinit
from fastinit import BaseInit, BaseModule


# force: running this twice in one session replaces the first registration instead of being an
# error.
@fastinit.WEIGHT_INITIALIZERS.register_module(name="ScaledByWidth", force=True)
class ScaledByWidthInit(BaseInit):
    """N(0, scale^2 / width) for a weight of `width` input features, a constant for the bias."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def __call__(self, module):
        for layer in module.modules():
            if self.wholemodule or type(layer).__name__ in self.layer:
                fastinit.normal_init(
                    layer, std=self.scale / math.sqrt(layer.weight.shape[1]), bias=self.bias
                )


class ToyNet(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.wide = nn.Linear(1024, 64)
        self.narrow = nn.Linear(64, 512)


torch.manual_seed(0)
model = ToyNet(init_cfg=dict(type="ScaledByWidth", scale=0.5, bias=0.1, layer="Linear"))
model.init_weights()

assert abs(model.wide.weight.std() / (0.5 / math.sqrt(1024)) - 1) < 0.03
assert abs(model.narrow.weight.std() / (0.5 / math.sqrt(64)) - 1) < 0.03
assert bool((model.wide.bias == 0.1).all())

print("layer   inputs  std     0.5 / sqrt(inputs)  bias")
for name, layer in model.named_children():
    expected = 0.5 / math.sqrt(layer.in_features)
    std, bias = layer.weight.std(), layer.bias.mean()
    print(f"{name:8}{layer.in_features:<8}{std:.4f}  {expected:<20.4f}{bias:.1f}")
