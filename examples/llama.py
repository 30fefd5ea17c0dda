"""A Llama-shaped decoder, by default of 1.1 B parameters, with its initialisation as init_cfg.

    python examples/llama.py           a small one: initialises it and checks its first loss
    python examples/llama.py --full    the same with all 1.1 B parameters (4.4 GB)

The rules are those of many language models: N(0, 0.02) for the embedding and every projection, the
two projections that write into the residual stream scaled down by sqrt(2 * layers), ones in the
norms. `decoder` takes the namespace that BaseModule and ModuleList come from, so the same
description runs on fastinit or on mmengine.model.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastinit


@dataclass(frozen=True)
class Sizes:
    """Shape of the decoder; the defaults give 1.1 B parameters."""

    layers: int = 22
    hidden: int = 2048
    intermediate: int = 5632
    heads: int = 32
    kv_heads: int = 4
    vocabulary: int = 32000
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


SMALL = Sizes(layers=2, hidden=64, intermediate=176, heads=4, kv_heads=2, vocabulary=512)


def weights(std: float, *, truncated: bool) -> dict[str, Any]:
    """The rule for a weight: Normal(0, std), or the same cut off at three standard deviations."""
    if truncated:
        return dict(type="TruncNormal", std=std, a=-3 * std, b=3 * std)
    return dict(type="Normal", std=std)


def decoder(
    kit: Any = fastinit,
    sizes: Sizes = Sizes(),
    *,
    std: float = 0.02,
    truncated: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Builds the decoder with its parameters allocated but not yet written: call `init_weights()`
    next.

    Args:
        kit: namespace with `BaseModule` and `ModuleList`, such as `fastinit` or `mmengine.model`.
        sizes: the shape.
        std: standard deviation of the weights.
        truncated: TruncNormal instead of Normal for every weight.
        device, dtype: of the parameters.
    """
    plain = weights(std, truncated=truncated)
    residual = weights(std / math.sqrt(2 * sizes.layers), truncated=truncated)

    class Attention(kit.BaseModule):
        def __init__(self) -> None:
            super().__init__(
                init_cfg=dict(**plain, layer="Linear", override=dict(**residual, name="o_proj"))
            )
            kv_width = sizes.kv_heads * sizes.head_dim
            self.q_proj = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
            self.k_proj = nn.Linear(sizes.hidden, kv_width, bias=False)
            self.v_proj = nn.Linear(sizes.hidden, kv_width, bias=False)
            self.o_proj = nn.Linear(sizes.hidden, sizes.hidden, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                projection(x).unflatten(-1, (-1, sizes.head_dim)).transpose(1, 2)
                for projection in (self.q_proj, self.k_proj, self.v_proj)
            )
            q, k = rotate(q, sizes.rope_base), rotate(k, sizes.rope_base)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return self.o_proj(mixed.transpose(1, 2).flatten(2))

    class FeedForward(kit.BaseModule):
        def __init__(self) -> None:
            super().__init__(
                init_cfg=dict(**plain, layer="Linear", override=dict(**residual, name="down_proj"))
            )
            self.gate_proj = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
            self.up_proj = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
            self.down_proj = nn.Linear(sizes.intermediate, sizes.hidden, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    class Block(kit.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm = nn.RMSNorm(sizes.hidden)
            self.attention = Attention()
            self.mlp_norm = nn.RMSNorm(sizes.hidden)
            self.mlp = FeedForward()

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attention(self.attention_norm(x))
            return x + self.mlp(self.mlp_norm(x))

    class Decoder(kit.BaseModule):
        def __init__(self) -> None:
            # An override without a type repeats the rule it stands in: lm_head is drawn like the
            # embedding.
            super().__init__(
                init_cfg=[
                    dict(**plain, layer="Embedding", override=dict(name="lm_head")),
                    dict(type="Constant", val=1, layer="RMSNorm"),
                ]
            )
            self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.hidden)
            self.layers = kit.ModuleList([Block() for _ in range(sizes.layers)])
            self.norm = nn.RMSNorm(sizes.hidden)
            self.lm_head = nn.Linear(sizes.hidden, sizes.vocabulary, bias=False)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed_tokens(tokens)
            for layer in self.layers:
                x = layer(x)
            return self.lm_head(self.norm(x))

    # On the meta device nn.Linear's own initialisation costs nothing, and to_empty allocates
    # without writing.
    with torch.device("meta"):
        model = Decoder().to(dtype)
    return model.to_empty(device=device)


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotary position embedding of x, (batch, heads, positions, head_dim)."""
    positions, width = x.shape[-2:]
    frequencies = base ** (-torch.arange(0, width, 2, device=x.device) / width)
    angles = torch.outer(torch.arange(positions, device=x.device), frequencies)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the 1.1 B-parameter model")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = decoder(sizes=Sizes() if arguments.full else SMALL)
    start = time.perf_counter()
    model.init_weights()
    seconds = time.perf_counter() - start
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters initialised in {seconds:.3f} s"
    )

    block = model.layers[0]
    depth_scale = math.sqrt(2 * len(model.layers))
    assert abs(block.attention.q_proj.weight.std() / 0.02 - 1) < 0.05
    assert abs(block.attention.o_proj.weight.std() / 0.02 * depth_scale - 1) < 0.05
    assert abs(block.mlp.down_proj.weight.std() / 0.02 * depth_scale - 1) < 0.05
    assert all(bool((m.weight == 1).all()) for m in model.modules() if isinstance(m, nn.RMSNorm))

    # A decoder that starts out right knows nothing yet: its loss is that of a uniform guess,
    # ln(vocabulary).
    vocabulary = model.lm_head.out_features
    tokens = torch.randint(vocabulary, (4, 65))
    with torch.no_grad():
        logits = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    print(f"first loss {loss:.3f}, a uniform guess {math.log(vocabulary):.3f}")
    assert abs(loss - math.log(vocabulary)) < 0.5


if __name__ == "__main__":
    main()
