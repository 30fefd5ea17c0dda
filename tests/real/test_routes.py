"""Real models: routes give the same bits, or are refused by name. `make zoo` tries them all."""

from __future__ import annotations

import warnings

import pytest
from versions import IS_OLDEST

from bench import routes
from bench.lib import torchtitan_models

SMALL = (
    "transformers/clip",
    "transformers/electra",
    "transformers/hubert",
    "diffusers/ControlNetModel",
    "diffusers/UNet2DConditionModel",
    "diffusers/VQModel",
    "mmpretrain/MobileNetV3",
    "mmpretrain/VisionTransformer",
    "timm/dla34",
    "timm/resnet18",
    "timm/tiny_vit_5m_224",
    "timm/vit_tiny_patch16_224",
    "torchtitan/llama3",
)
LARGER = (
    "transformers/deit",
    "transformers/esm",
    "transformers/glpn",
    "transformers/mobilevit",
    "transformers/t5",
    "diffusers/FluxTransformer2DModel",
    "mmpretrain/RegNet",
    "timm/mobilenetv3_small_100",
    "timm/ghostnet_100",
    *(f"torchtitan/{family}" for family in torchtitan_models.FAMILIES if family != "llama3"),
)
REFUSED = {
    "transformers/clip": "nothing writes logit_scale",
    "transformers/hubert": "parametrizations.weight.original1",
    "diffusers/ControlNetModel": "the constructor of ControlNetModel wrote controlnet_cond_emb",
    "diffusers/VQModel": "the constructor of VectorQuantizer seems to write by .data",
    "mmpretrain/VisionTransformer": "nothing writes cls_token",
    "timm/dla34": "the constructor of DLA seems to write by .data",
    "timm/resnet18": "the constructor of ResNet gives arguments to init_weights",
    "timm/vit_tiny_patch16_224": "the constructor of VisionTransformer gives arguments to init",
    "timm/mobilenetv3_small_100": "the constructor of MobileNetV3 wrote",
    "timm/tiny_vit_5m_224": "the constructor of TinyVit wrote",
}


@pytest.mark.parametrize("name", SMALL + LARGER)
def test_the_routes_of_a_model_agree(name: str, request: pytest.FixtureRequest) -> None:
    if name in LARGER and not request.config.getoption("--thorough"):
        pytest.skip("with --thorough")
    if IS_OLDEST and name.startswith("torchtitan/"):
        pytest.skip("torch 2.6: torchtitan needs a later one")
    make = routes.of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = routes.tried(name, make)
    assert found["built"] == "equal"
    assert found["fused"] in ("equal", "-")
    if name in REFUSED:
        assert found["meta"].startswith("refused: ")
        assert REFUSED[name] in found["meta"]
    else:
        assert found["meta"] == "equal"
