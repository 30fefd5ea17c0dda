"""The other door: mmengine's own BaseModule, unmodified, and its init_weights as one fill."""

import logging

import mmengine.model
import torch
from mmengine.logging import MMLogger
from torch import nn

import fastinit
from fastinit.integrations import mmengine as seam

# mmengine logs every parameter that it has initialised: not here.
MMLogger.get_current_instance().setLevel(logging.ERROR)


class Head(mmengine.model.BaseModule):  # whose import nobody has changed
    def __init__(self):
        super().__init__(
            init_cfg=dict(
                type="Kaiming",
                layer="Conv2d",
                override=dict(type="Normal", std=0.01, bias_prob=0.01, name="predict"),
            )
        )
        self.conv = nn.Conv2d(64, 64, 3)
        self.predict = nn.Conv2d(64, 80, 1)


with seam.install():  # or once, for the process, without `with`
    torch.manual_seed(0)
    head = Head()
    head.init_weights()

assert abs(head.predict.weight.std().item() / 0.01 - 1) < 0.05
assert abs(torch.sigmoid(head.predict.bias[0]).item() - 0.01) < 1e-6

# Inside build and fused it is so by itself, and values have a seed and names.
built = fastinit.build(Head, seed=3, init_weights=True)
assert abs(built.predict.weight.std().item() / 0.01 - 1) < 0.05

# A model of ours counts as one of mmengine's.
assert isinstance(fastinit.Sequential(nn.Linear(2, 2)), mmengine.model.BaseModule)

print(f"{Head.__mro__[1].__module__}.BaseModule, filled by fastinit:")
print("parameter        std: install()  build(seed=3)")
for name, value in head.named_parameters():
    print(f"{name:22}{value.std():<11.5f}{built.get_parameter(name).std():.5f}")
probabilities = torch.sigmoid(head.predict.bias[0]), torch.sigmoid(built.predict.bias[0])
print("{:22}{:<11.5f}{:.5f}".format("sigmoid(predict.bias)", *probabilities))
