"""The models that are measured, each with the rules that its init_cfg comes down to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastinit
from bench.lib.rules import Rule
from examples.llama import Sizes, decoder


@dataclass(frozen=True)
class Group:
    """Parameters that one rule writes: those whose name contains one of `names`."""

    label: str
    rule: Rule
    names: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A model and what its initialisation means.

    `build(kit, device=..., dtype=...)` makes it on the BaseModule of a namespace, allocated but not
    written. `groups` cover every parameter exactly once, which `grouped` verifies.
    """

    name: str
    build: Callable[..., nn.Module]
    groups: tuple[Group, ...] = field(repr=False)

    def grouped(self, model: nn.Module) -> dict[str, tuple[Rule, list[Tensor]]]:
        """label -> (rule, its parameters); ValueError for a parameter not claimed exactly once."""
        found: dict[str, tuple[Rule, list[Tensor]]] = {g.label: (g.rule, []) for g in self.groups}
        for name, parameter in model.named_parameters():
            claims = [g.label for g in self.groups if any(part in name for part in g.names)]
            if len(claims) != 1:
                raise ValueError(f"{self.name}: {name} belongs to {claims or 'no group'}")
            found[claims[0]][1].append(parameter)
        return found


def llama(name: str, sizes: Sizes, *, truncated: bool = False, std: float = 0.02) -> Case:
    """The decoder of examples/llama.py: Normal, or all TruncNormal at three standard deviations."""

    def weight(spread: float) -> Rule:
        if truncated:
            return Rule("trunc_normal_", {"std": spread, "a": -3 * spread, "b": 3 * spread})
        return Rule("normal_", {"std": spread})

    residual = weight(std / math.sqrt(2 * sizes.layers))
    return Case(
        name,
        partial(decoder, sizes=sizes, truncated=truncated, std=std),
        (
            Group("embedding, lm_head", weight(std), ("embed_tokens", "lm_head")),
            Group("q, k, v", weight(std), ("q_proj", "k_proj", "v_proj")),
            Group("gate, up", weight(std), ("gate_proj", "up_proj")),
            Group("o, down (residual)", residual, ("o_proj", "down_proj")),
            Group("norms", Rule("constant_", {"val": 1.0}), ("norm",)),
        ),
    )


def small_tensors(count: int = 10_000, width: int = 16) -> Case:
    """`count` weights of `width` x `width`: what a fill costs before its first element."""

    def build(
        kit: Any = fastinit, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> nn.Module:
        class Many(kit.BaseModule):
            def __init__(self) -> None:
                super().__init__(init_cfg=dict(type="Normal", std=0.02, layer="Linear"))
                self.parts = nn.ModuleList(
                    [nn.Linear(width, width, bias=False) for _ in range(count)]
                )

        return _allocate(Many, device, dtype)

    return Case(
        f"{count} tensors of {width * width}",
        build,
        (Group("weights", Rule("normal_", {"std": 0.02}), ("weight",)),),
    )


def resnet(blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> Case:
    """A residual network of bottlenecks, by default of ResNet-50's shape, with OpenMMLab's rules:

    Kaiming over the fan-out for convolutions, ones and zeros for batch norms, zeros for the last
    norm of each block, N(0, 0.01) for the classifier.
    """

    def build(
        kit: Any = fastinit, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> nn.Module:
        class Bottleneck(kit.BaseModule):
            def __init__(self, inputs: int, middle: int, stride: int) -> None:
                super().__init__(
                    init_cfg=[
                        dict(type="Kaiming", layer="Conv2d"),
                        dict(
                            type="Constant",
                            val=1,
                            layer="BatchNorm2d",
                            override=dict(type="Constant", val=0, name="norm3"),
                        ),
                    ]
                )
                self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
                self.norm1 = nn.BatchNorm2d(middle)
                self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
                self.norm2 = nn.BatchNorm2d(middle)
                self.conv3 = nn.Conv2d(middle, 4 * middle, 1, bias=False)
                self.norm3 = nn.BatchNorm2d(4 * middle)
                if stride != 1 or inputs != 4 * middle:
                    self.shortcut_conv = nn.Conv2d(inputs, 4 * middle, 1, stride, bias=False)
                    self.shortcut_norm = nn.BatchNorm2d(4 * middle)

        class ResNet(kit.BaseModule):
            def __init__(self) -> None:
                # Only the stem and the classifier: each block brings the rules for what is in it.
                super().__init__(
                    init_cfg=dict(
                        type="Kaiming",
                        override=[
                            dict(name="stem_conv"),
                            dict(type="Constant", val=1, name="stem_norm"),
                            dict(type="Normal", std=0.01, name="classifier"),
                        ],
                    )
                )
                self.stem_conv = nn.Conv2d(3, width, 7, 2, 3, bias=False)
                self.stem_norm = nn.BatchNorm2d(width)
                stages, inputs = [], width
                for stage, depth in enumerate(blocks):
                    middle = width << stage
                    for index in range(depth):
                        stride = 2 if stage > 0 and index == 0 else 1
                        stages.append(Bottleneck(inputs, middle, stride))
                        inputs = 4 * middle
                self.stages = kit.ModuleList(stages)
                self.classifier = nn.Linear(inputs, classes)

        return _allocate(ResNet, device, dtype)

    one, zero = Rule("constant_", {"val": 1.0}), Rule("constant_", {"val": 0.0})
    return Case(
        f"resnet {'-'.join(map(str, blocks))}",
        build,
        (
            Group(
                "convolutions",
                Rule("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
                ("conv1.", "conv2.", "conv3.", "_conv."),
            ),
            Group("norms", one, ("norm1.weight", "norm2.weight", "_norm.weight")),
            Group("last norms", zero, ("norm3.weight",)),
            Group(
                "biases",
                zero,
                ("norm1.bias", "norm2.bias", "norm3.bias", "_norm.bias", "classifier.bias"),
            ),
            Group("classifier", Rule("normal_", {"std": 0.01}), ("classifier.weight",)),
        ),
    )


def _allocate(model: Callable[[], nn.Module], device: str, dtype: torch.dtype) -> nn.Module:
    """Constructs on the meta device, where fills cost nothing, and allocates without writing."""
    with torch.device("meta"):
        built = model().to(dtype)
    return built.to_empty(device=device)


ALL: dict[str, Callable[[], Case]] = {
    "llama-1.1b": lambda: llama("llama-1.1b", Sizes()),
    "llama-1.1b-trunc": lambda: llama("llama-1.1b-trunc", Sizes(), truncated=True),
    "small-tensors": small_tensors,
    "resnet": resnet,
}
