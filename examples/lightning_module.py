"""A LightningModule whose `configure_model` builds the network by one fill, where it is to live.

    pip install lightning
    python examples/lightning_module.py

Lightning calls `configure_model` on every rank once the strategy is set up, and possibly more than
once. What is built there needs no memory before, and with a seed has the same values on each rank.
"""

import logging
import warnings

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastinit


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))


class Classifier(lightning.LightningModule):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.network: nn.Module | None = None
        self.losses: list[float] = []

    def configure_model(self) -> None:
        if self.network is None:
            self.network = fastinit.build(make, device=self.device, seed=self.seed)
            self.first = {k: v.clone() for k, v in self.network.state_dict().items()}

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        inputs, labels = batch
        loss = F.cross_entropy(self.network(inputs), labels)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def train(seed: int) -> Classifier:
    torch.manual_seed(1)  # of the data, and of nothing else: the weights have a seed of their own
    inputs = torch.randn(256, 16)
    data = DataLoader(TensorDataset(inputs, inputs[:, :4].argmax(1)), batch_size=32)
    module = Classifier(seed)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return module


# What Lightning says of the machine, and of data loaders without workers, is not the subject.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")

first, again, other = train(seed=0), train(seed=0), train(seed=1)
print("seed  std of the first weight  first loss  last loss")
for module in (first, again, other):
    std = module.first["0.weight"].std()
    print(f"{module.seed:<6}{std:<25.5f}{module.losses[0]:<12.5f}{module.losses[-1]:.5f}")
assert first.losses == again.losses
assert first.losses[0] != other.losses[0]
assert first.losses[-1] < first.losses[0] / 2
for name, value in first.first.items():
    assert torch.equal(again.first[name], value), name
print("The same seed has the same weights and losses.")
