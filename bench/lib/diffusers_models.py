"""Models of diffusers with few channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

_BLOCKS = {"block_out_channels": (32, 64), "layers_per_block": 1}
_CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}
_CODER = {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
}
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}

MODELS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {**_BLOCKS, **_CODER},
    "ControlNetModel": {**_BLOCKS, **_CROSS, "conditioning_embedding_out_channels": (16, 32)},
    "DiTTransformer2DModel": {**_HEADS, "sample_size": 8, "norm_num_groups": 8},
    "FluxTransformer2DModel": {
        **_HEADS,
        "num_single_layers": 2,
        "in_channels": 16,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 6, 6),
    },
    "PixArtTransformer2DModel": {**_HEADS, "cross_attention_dim": 32, "caption_channels": 32},
    "SD3Transformer2DModel": {
        **_HEADS,
        "sample_size": 8,
        "joint_attention_dim": 32,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 32,
    },
    "UNet1DModel": {},
    "UNet2DConditionModel": {
        **_BLOCKS,
        **_CROSS,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "UNet2DModel": {
        **_BLOCKS,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "VQModel": {**_BLOCKS, **_CODER},
}


def constructors() -> dict[str, Callable[[], nn.Module]]:
    """Every model by `diffusers/name`."""
    return {f"diffusers/{name}": of(f"diffusers/{name}") for name in MODELS}


def of(name: str) -> Callable[[], nn.Module]:
    """Return the constructor of one model."""
    import diffusers

    kind = name.partition("/")[2]
    return partial(getattr(diffusers, kind), **MODELS[kind])
