"""What a module's own `init_weights` writes wins over init_cfg, its own and its parents'."""

import torch
from torch import nn

from fastinit import BaseModule, bias_init_with_prob


class Head(BaseModule):
    def __init__(self):
        super().__init__(init_cfg=dict(type="Normal", std=0.01, layer="Linear"))
        self.hidden = nn.Linear(64, 64)
        self.classify = nn.Linear(64, 80)

    def init_weights(self):
        super().init_weights()  # as init_cfg says ...
        with torch.no_grad():
            self.classify.weight.mul_(2)  # ... and then on top of what it has written
        nn.init.constant_(self.classify.bias, bias_init_with_prob(0.01))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(64, 64)

    def init_weights(self):
        self.mix.weight.data.fill_(0)


class ToyNet(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.body = nn.Linear(64, 64)
        self.gate = Gate()
        self.head = Head()


torch.manual_seed(0)
model = ToyNet(init_cfg=dict(type="Constant", val=5, bias=1, layer="Linear"))
model.init_weights()

assert bool((model.body.weight == 5).all())  # the parent's rule reaches every Linear below it,
assert bool((model.gate.mix.weight == 0).all())  # but the code of the module itself comes later,
assert bool((model.gate.mix.bias == 1).all())  # for what it writes;
assert abs(model.head.hidden.weight.std() / 0.01 - 1) < 0.05  # so does a child's own init_cfg
assert abs(model.head.classify.weight.std() / 0.02 - 1) < 0.05
assert torch.allclose(model.head.classify.bias.sigmoid(), torch.tensor(0.01))

writers = {
    "body.weight": "Constant, the model's",
    "body.bias": "Constant, the model's",
    "gate.mix.weight": "Gate.init_weights",
    "gate.mix.bias": "Constant, the model's",
    "head.hidden.weight": "Normal, the head's",
    "head.hidden.bias": "Normal, the head's",
    "head.classify.weight": "Normal, then Head.init_weights",
    "head.classify.bias": "Head.init_weights",
}
print("parameter             written by                      mean     std")
for name, by in writers.items():
    value = model.get_parameter(name)
    print(f"{name:22}{by:30}{value.mean():+8.4f}  {value.std():.4f}")
