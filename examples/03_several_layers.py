"""One rule for several types of layer."""

import torch
from torch import nn

from fastinit import BaseModule


class ToyNet(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(32, 64, 3)
        self.linear = nn.Linear(256, 128)
        self.embedding = nn.Embedding(100, 16)


torch.manual_seed(0)
model = ToyNet(init_cfg=dict(type="Uniform", a=-0.1, b=0.1, bias=0.5, layer=["Conv2d", "Linear"]))
embedding_before = model.embedding.weight.clone()
model.init_weights()

for layer in (model.conv, model.linear):
    assert layer.weight.min() >= -0.1
    assert layer.weight.max() < 0.1
    assert abs(layer.weight.std() - 0.2 / 12**0.5) < 0.001
    assert bool((layer.bias == 0.5).all())
assert torch.equal(model.embedding.weight, embedding_before)

writers = {"conv": "Uniform", "linear": "Uniform", "embedding": "its constructor"}
print("parameter         written by       mean      std")
for name, value in model.named_parameters():
    by = writers[name.partition(".")[0]]
    print(f"{name:18}{by:17}{value.mean():+.4f}  {value.std():.4f}")
