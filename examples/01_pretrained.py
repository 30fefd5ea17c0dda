"""Initialise a model from a checkpoint file, all of it or the part under a prefix."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from fastinit import BaseModule


class Backbone(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.stem = nn.Conv2d(3, 8, 3)
        self.project = nn.Linear(8, 4)


class Detector(BaseModule):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()


torch.manual_seed(0)
with tempfile.TemporaryDirectory() as folder:
    trained = Backbone()
    path = str(Path(folder) / "backbone.pth")
    torch.save(trained.state_dict(), path)

    model = Backbone(init_cfg=dict(type="Pretrained", checkpoint=path))
    assert not torch.equal(
        model.stem.weight, trained.stem.weight
    )  # not loaded by the constructor ...
    model.init_weights()  # ... but here
    print("parameter       std     equal to that of backbone.pth")
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
        print(f"{name:14}  {value.std():.4f}  yes")

    # A checkpoint of a larger model: `prefix` says where this one's weights are in it.
    detector = Detector()
    path = str(Path(folder) / "detector.pth")
    torch.save({"state_dict": detector.state_dict()}, path)

    part = Backbone(init_cfg=dict(type="Pretrained", checkpoint=path, prefix="backbone."))
    part.init_weights()

    print("\nparameter       std     equal to that of detector.pth, with the prefix 'backbone.'")
    for name, value in part.state_dict().items():
        assert torch.equal(value, detector.state_dict()[f"backbone.{name}"]), name
        print(f"{name:14}  {value.std():.4f}  yes")
