"""A plain nn.Module with an `init_weights` of its own takes part in its parent's."""

import torch
from torch import nn

from fastinit import BaseModule


class ScaledConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(4, 4, 3, 3))
        self.offset = nn.Parameter(torch.empty(4))

    def init_weights(self):
        self.kernel.data.fill_(1)
        self.offset.data.fill_(0)


class ToyNet(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(32, 64, 3)
        self.scaled = ScaledConv()


torch.manual_seed(0)
model = ToyNet(init_cfg=dict(type="Normal", std=0.01, layer="Conv2d"))
model.init_weights()

assert abs(model.conv.weight.std() / 0.01 - 1) < 0.03
assert bool((model.scaled.kernel == 1).all())
assert bool((model.scaled.offset == 0).all())

writers = {"conv": "Normal", "scaled": "its own init_weights"}
print("parameter       written by            mean      std")
for name, value in model.named_parameters():
    by = writers[name.partition(".")[0]]
    print(f"{name:16}{by:22}{value.mean():+.4f}  {value.std():.4f}")
