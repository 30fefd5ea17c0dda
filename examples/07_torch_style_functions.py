"""torch.nn.init's functions under the same names: one tensor at a time."""

import torch
from torch import nn

from fastinit.init import calculate_gain, constant_, kaiming_uniform_, normal_, trunc_normal_

torch.manual_seed(0)
model = nn.Conv2d(32, 64, 3)
returned = normal_(model.weight, mean=0, std=0.01)
constant_(model.bias, val=0)
print("function          of           smallest  largest      std")
row = "{:18}{:13}{:+.4f}  {:+.4f}  {:.5f}".format
print(row("normal_", "weight", model.weight.min(), model.weight.max(), model.weight.std()))
print(row("constant_", "bias", model.bias.min(), model.bias.max(), model.bias.std()))

assert returned is model.weight  # filled in place, and handed back
assert model.weight.requires_grad
assert abs(model.weight.std() / 0.01 - 1) < 0.03
assert bool((model.bias == 0).all())

# torch.manual_seed governs the values, and the second of two calls differs from the first.
torch.manual_seed(1)
first = normal_(torch.empty(1000))
second = normal_(torch.empty(1000))
torch.manual_seed(1)
again = normal_(torch.empty(1000))
assert torch.equal(first, again)
assert not torch.equal(first, second)

bound = calculate_gain("relu") * (3 / (32 * 9)) ** 0.5
kaiming_uniform_(model.weight, nonlinearity="relu")
assert -bound <= model.weight.min() < -0.99 * bound
assert 0.99 * bound < model.weight.max() <= bound
print(row("kaiming_uniform_", "weight", model.weight.min(), model.weight.max(), model.weight.std()))

trunc_normal_(model.weight, std=0.02, a=-0.04, b=0.04)
assert 0.039 < model.weight.abs().max() <= 0.04
print(row("trunc_normal_", "weight", model.weight.min(), model.weight.max(), model.weight.std()))
print(f"after manual_seed(1): {first[0]:+.4f}, then {second[0]:+.4f}; again: {again[0]:+.4f}")
