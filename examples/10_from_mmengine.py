"""Coming from mmengine: change the import; with the torch backend even the values stay."""

import logging

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule as MMEngineBaseModule
from torch import nn

import fastinit

# Both log every parameter that they have initialised: not here.
MMLogger.get_current_instance().setLevel(logging.ERROR)
logging.getLogger("fastinit").setLevel(logging.ERROR)

INIT_CFG = [
    dict(type="Kaiming", layer="Conv2d", override=dict(type="Normal", std=0.01, name="predict")),
    dict(type="Constant", val=1, layer="BatchNorm2d"),
]


def initialised(base: type[nn.Module]) -> nn.Module:
    """The model on this BaseModule, initialised from the same seed."""

    class ToyNet(base):
        def __init__(self):
            super().__init__(INIT_CFG)
            self.conv = nn.Conv2d(16, 64, 3)
            self.norm = nn.BatchNorm2d(64)
            self.predict = nn.Conv2d(64, 32, 3)

    torch.manual_seed(0)
    model = ToyNet()
    model.init_weights()
    return model


theirs = initialised(MMEngineBaseModule).state_dict()

with fastinit.backend("torch"):  # every rule through torch.nn.init, in mmengine's order
    same = initialised(fastinit.BaseModule).state_dict()
for name, value in theirs.items():
    assert torch.equal(same[name], value), name

with fastinit.backend("native"):  # the same rules, drawn by fastinit's own generator
    model = initialised(fastinit.BaseModule)
ours = model.state_dict()
assert list(ours) == list(theirs)
for name in ("conv.weight", "predict.weight"):
    assert not torch.equal(ours[name], theirs[name])
    assert abs(ours[name].std() / theirs[name].std() - 1) < 0.05
for name in ("conv.bias", "norm.weight", "norm.bias", "predict.bias"):
    assert torch.equal(ours[name], theirs[name]), name

print("parameter        std: mmengine  torch backend  native backend")
for name in ("conv.weight", "conv.bias", "norm.weight", "predict.weight"):
    deviations = (values[name].std() for values in (theirs, same, ours))
    print("{:22}{:<10.5f}{:<15.5f}{:.5f}".format(name, *deviations))
print("The torch backend's values are mmengine's bit for bit, the native backend's its own.")
