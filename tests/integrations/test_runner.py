"""mmengine's Runner needs no patch: it initialises, trains, saves and resumes as ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmengine.model
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

import fastinit
from fastinit.integrations import mmengine as seam


class Pairs(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x = torch.linspace(index, index + 1, 4)
        return {"x": x, "y": x.sum()}


class Backbone(mmengine.model.BaseModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(dict(type="Normal", layer="Linear", std=0.25, bias=1.0))
        self.linear = nn.Linear(4, 2048)


class OurBackbone(fastinit.BaseModule):
    def __init__(self) -> None:
        super().__init__(init_cfg=dict(type="Normal", layer="Linear", std=0.25, bias=1.0))
        self.linear = nn.Linear(4, 2048)


class Net(BaseModel):  # type: ignore[misc]
    def __init__(self, backbone: Callable[[], nn.Module]) -> None:
        super().__init__(init_cfg=dict(type="Constant", layer="Linear", val=0.5))
        self.backbone, self.head = backbone(), nn.Linear(2048, 1)
        self.at_first: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor, mode: str = "tensor") -> Any:
        if self.at_first is None:
            self.at_first = self.backbone.linear.weight.detach().clone()
        found = self.head(self.backbone.linear(x)).squeeze(-1)
        return {"loss": (found - y).square().mean()} if mode == "loss" else found


def trained(net: Net, folder: Path, iterations: int, **given: Any) -> Net:
    Runner(
        net,
        str(folder),
        train_dataloader=dict(
            batch_size=2,
            dataset=Pairs(),
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1e-6, momentum=0.9)),
        custom_hooks=[dict(type="EMAHook")],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=False)),
        experiment_name=f"{folder.name}-{iterations}",
        randomness=dict(seed=5),
        default_scope="mmengine",
        **given,
    ).train()
    return net


@pytest.mark.usefixtures("mmengine_loggers")
@pytest.mark.parametrize("backbone", [Backbone, OurBackbone])
def test_it_initialises_trains_saves_and_resumes(
    backbone: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mmengine 0.10 resumes by torch.load, whose default refuses what it has saved itself.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with seam.install():
        first = trained(Net(backbone), tmp_path / "a", 2)
        resumed = trained(Net(backbone), tmp_path / "a", 4, resume=True)
        whole = trained(Net(backbone), tmp_path / "b", 4)
    assert first.at_first is not None
    assert abs(float(first.at_first.std()) - 0.25) < 0.02
    assert not torch.equal(first.backbone.linear.weight, first.at_first), "it has not trained"
    assert torch.equal(first.at_first, whole.at_first), "the Runner's seed governs"
    for (name, value), expected in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(value, expected), name

    (log,) = tmp_path.glob("b/*/*.log")
    told = log.read_text()
    assert "backbone.linear.weight - torch.Size([2048, 4])" in told
    assert "NormalInit: mean=0, std=0.25" in told

    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    again = OurBackbone()
    again.init_cfg = dict(
        type="Pretrained", checkpoint=str(tmp_path / "b" / "iter_4.pth"), prefix="backbone."
    )
    again.init_weights()
    assert not torch.equal(again.linear.weight, whole.backbone.linear.weight), "it is averaged"
    again.init_cfg.update(key="ema_state_dict", prefix="module.backbone.")  # mmengine swaps the two
    again.init_weights(force=True)
    assert torch.equal(again.linear.weight, whole.backbone.linear.weight)
