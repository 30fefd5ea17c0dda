"""Functions that initialise a whole layer, weight and bias, by one call."""

import math

import torch
from torch import nn

from fastinit import constant_init, kaiming_init, normal_init, xavier_init

torch.manual_seed(0)
model = nn.Conv2d(32, 64, 3)
fan_in, fan_out = 32 * 9, 64 * 9

normal_init(model, mean=0, std=0.01, bias=0.5)
assert abs(model.weight.std() / 0.01 - 1) < 0.03
assert bool((model.bias == 0.5).all())

kaiming_init(model)
assert abs(model.weight.std() / math.sqrt(2 / fan_out) - 1) < 0.03
assert bool((model.bias == 0).all())

xavier_init(model, gain=2, distribution="uniform")
bound = 2 * math.sqrt(6 / (fan_in + fan_out))
assert 0.99 * bound < model.weight.abs().max() <= bound

# A layer that has no bias, or no weight, is not an error.
norm = nn.BatchNorm2d(8, affine=False)
constant_init(norm, 1)
pointwise = nn.Conv2d(32, 64, 1, bias=False)
kaiming_init(pointwise)
assert abs(pointwise.weight.std() / math.sqrt(2 / 64) - 1) < 0.1
