"""Functions that initialise a whole layer, weight and bias, by one call."""

import math

import torch
from torch import nn

from fastinit import constant_init, kaiming_init, normal_init, xavier_init

torch.manual_seed(0)
model = nn.Conv2d(32, 64, 3)
fan_in, fan_out = 32 * 9, 64 * 9

print("call                      std of the weight  expected  bias")
row = "{:26}{:<19.4f}{:<10.4f}{}".format

normal_init(model, mean=0, std=0.01, bias=0.5)
assert abs(model.weight.std() / 0.01 - 1) < 0.03
assert bool((model.bias == 0.5).all())
print(row("normal_init(std=0.01)", model.weight.std(), 0.01, 0.5))

kaiming_init(model)
assert abs(model.weight.std() / math.sqrt(2 / fan_out) - 1) < 0.03
assert bool((model.bias == 0).all())
print(row("kaiming_init()", model.weight.std(), math.sqrt(2 / fan_out), 0))

xavier_init(model, gain=2, distribution="uniform")
bound = 2 * math.sqrt(6 / (fan_in + fan_out))
assert 0.99 * bound < model.weight.abs().max() <= bound
assert bool((model.bias == 0).all())
print(row("xavier_init(uniform)", model.weight.std(), bound / math.sqrt(3), 0))

# A layer that has no bias, or no weight, is not an error.
norm = nn.BatchNorm2d(8, affine=False)
constant_init(norm, 1)
pointwise = nn.Conv2d(32, 64, 1, bias=False)
kaiming_init(pointwise)
assert abs(pointwise.weight.std() / math.sqrt(2 / 64) - 1) < 0.1
print(row("kaiming_init(), no bias", pointwise.weight.std(), math.sqrt(2 / 64), "none"))
