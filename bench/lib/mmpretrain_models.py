"""Models of mmpretrain, on mmengine's BaseModule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bench.lib.without_torchvision import stand_in_for_torchvision

MODELS: dict[str, dict[str, Any]] = {
    "ConvNeXt": {"arch": "atto"},
    "EfficientNet": {"arch": "b0"},
    "MlpMixer": {"arch": "b", "patch_size": 16},
    "MobileNetV2": {},
    "MobileNetV3": {"arch": "small"},
    "RegNet": {"arch": "regnetx_400mf"},
    "ResNet": {"depth": 18},
    "SEResNet": {"depth": 50},
    "ShuffleNetV2": {},
    "SwinTransformer": {"arch": "tiny"},
    "TIMMBackbone": {"model_name": "resnet18"},
    "VGG": {"depth": 11},
    "VisionTransformer": {"arch": "deit-tiny"},
}
# A backbone and a head, as configs have it.
CLASSIFIER = {
    "type": "ImageClassifier",
    "backbone": {"type": "ResNet", "depth": 18},
    "neck": {"type": "GlobalAveragePooling"},
    "head": {"type": "LinearClsHead", "num_classes": 10, "in_channels": 512},
}


def constructors() -> dict[str, Callable[[], nn.Module]]:
    """Every model by `mmpretrain/name`."""
    names = [*MODELS, CLASSIFIER["type"]]
    return {f"mmpretrain/{name}": of(f"mmpretrain/{name}") for name in names}


def of(name: str) -> Callable[[], nn.Module]:
    """Return the constructor of one model."""
    kind = name.partition("/")[2]
    return maker({"type": kind, **MODELS[kind]} if kind in MODELS else CLASSIFIER)


def maker(config: dict[str, Any]) -> Callable[[], nn.Module]:
    """Return the constructor of the model of a config."""
    stand_in_for_torchvision()
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS as REGISTRY

    def made() -> nn.Module:
        with DefaultScope.overwrite_default_scope("mmpretrain"):  # a Runner may have set another
            model: nn.Module = REGISTRY.build(config)
            return model

    return made
