"""The zoo: constructors of real models at their real small sizes, from timm and transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from bench.lib.without_torchvision import stand_in_for_torchvision

# fmt: off
TIMM = [
    "beit_base_patch16_224", "cait_xxs24_224", "caformer_s18", "coatnet_0_rw_224",
    "convnext_pico", "convnext_tiny", "convnextv2_atto", "crossvit_tiny_240",
    "deit3_small_patch16_224", "deit_tiny_patch16_224", "densenet121", "dla34",
    "edgenext_small", "efficientformerv2_s0", "efficientnet_b0", "efficientnetv2_rw_t",
    "eva02_tiny_patch14_224", "fastvit_t8", "fbnetc_100", "focalnet_tiny_srf", "ghostnet_100",
    "gmlp_s16_224", "hrnet_w18_small", "inception_v3", "levit_128s", "maxvit_tiny_tf_224",
    "mixer_s16_224", "mnasnet_100", "mobilenetv2_100", "mobilenetv3_large_100",
    "mobilenetv3_small_100", "mobilenetv4_conv_small", "mobilevit_s", "mobilevitv2_100",
    "nf_resnet50", "poolformer_s12", "pvt_v2_b0", "regnetx_002", "regnety_004", "repvgg_a0",
    "res2net50_26w_4s", "resmlp_12_224", "resnet18", "resnet26d", "resnet34", "resnet50",
    "resnext50_32x4d", "seresnet18", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256",
    "tf_efficientnetv2_b0", "tiny_vit_5m_224", "twins_svt_small", "vgg11",
    "vit_base_patch16_224", "vit_small_patch16_224", "vit_tiny_patch16_224", "volo_d1_224",
    "xception41", "xcit_tiny_12_p16_224",
]
# fmt: on

# Where a configuration's defaults are not the family's small model, what makes them so.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "albert": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "bart": {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6},
    "beit": {},
    "bert": {},
    "bloom": {"hidden_size": 512, "n_layer": 8, "n_head": 8, "vocab_size": 32000},
    "camembert": {},
    "clip": {},
    "convbert": {},
    "convnext": {},
    "cvt": {},
    "data2vec-text": {},
    "deberta-v2": {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
    },
    "deit": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "dinov2": {"hidden_size": 384, "num_attention_heads": 6},
    "distilbert": {},
    "dpt": {},
    "electra": {},
    "esm": {
        "vocab_size": 33,
        "hidden_size": 320,
        "num_hidden_layers": 6,
        "num_attention_heads": 20,
        "pad_token_id": 1,
    },
    "fnet": {},
    "gemma": {"hidden_size": 512, "num_hidden_layers": 6, "vocab_size": 32000, "head_dim": 64},
    "glpn": {},
    "gpt2": {},
    "gpt_neox": {
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
    },
    "hubert": {},
    "levit": {},
    "llama": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "mamba": {"hidden_size": 768, "num_hidden_layers": 24},
    "mobilebert": {},
    "mobilevit": {},
    "mpnet": {},
    "opt": {},
    "poolformer": {},
    "qwen2": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "regnet": {},
    "resnet": {},
    "roberta": {},
    "segformer": {},
    "swin": {},
    "t5": {},
    "vit": {},
    "wav2vec2": {},
    "whisper": {},
    "xlnet": {"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072},
    "yolos": {},
}


def constructors() -> dict[str, Callable[[], nn.Module]]:
    """Every constructor of the zoo by `library/name`."""
    names = [f"timm/{name}" for name in TIMM] + [f"transformers/{kind}" for kind in TRANSFORMERS]
    return {name: of(name) for name in names}


def of(name: str) -> Callable[[], nn.Module]:
    """Return the constructor of one model."""
    import transformers  # before the stand-in: it looks at what is installed

    library, _, kind = name.partition("/")
    if library == "timm":
        stand_in_for_torchvision()
        import timm

        return partial(timm.create_model, kind)

    def made() -> nn.Module:
        config = transformers.AutoConfig.for_model(kind, **TRANSFORMERS[kind])
        return transformers.AutoModel.from_config(config)

    return made
