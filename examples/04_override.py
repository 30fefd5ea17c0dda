"""The same type of layer, two rules: `override` names the submodule that differs."""

import math

import torch
from torch import nn

from fastinit import BaseModule


class ToyNet(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv1 = nn.Conv2d(32, 64, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)


torch.manual_seed(0)
model = ToyNet(
    init_cfg=dict(
        type="Kaiming", layer="Conv2d", override=dict(type="Xavier", name="conv2", bias=0.1)
    )
)
model.init_weights()

fan_in, fan_out = 32 * 9, 64 * 9
assert abs(model.conv1.weight.std() / math.sqrt(2 / fan_out) - 1) < 0.03
assert abs(model.conv2.weight.std() / math.sqrt(2 / (fan_in + fan_out)) - 1) < 0.03
assert bool((model.conv1.bias == 0).all())
assert bool((model.conv2.bias == 0.1).all())

writers = {"conv1": "Kaiming", "conv2": "Xavier, the override"}
print("parameter     written by            mean      std")
for name, value in model.named_parameters():
    by = writers[name.partition(".")[0]]
    print(f"{name:14}{by:22}{value.mean():+.4f}  {value.std():.4f}")

# Without `layer` nothing but the named submodules is written, and a name alone repeats the outer
# rule.
model = ToyNet(init_cfg=dict(type="Constant", val=2, bias=3, override=dict(name="conv1")))
untouched = model.conv2.weight.clone()
model.init_weights()
assert bool((model.conv1.weight == 2).all())
assert bool((model.conv1.bias == 3).all())
assert torch.equal(model.conv2.weight, untouched)

print("\nan override alone: conv1 is", end=" ")
print(f"{model.conv1.weight.mean():g} with bias {model.conv1.bias.mean():g}, conv2 as before")
