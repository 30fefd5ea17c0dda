"""A model of transformers, built by its own code: one fill, and no memory until it is wanted.

    python examples/transformers_llama.py

The library's constructor and its `init_weights` run as they are; what they write is recorded, and
carried out at once at the end.
"""

import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import fastinit

CONFIG = LlamaConfig(
    hidden_size=256,
    intermediate_size=688,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=4096,
)


def make() -> LlamaForCausalLM:
    return LlamaForCausalLM(CONFIG)


start = time.perf_counter()
with fastinit.fused(seed=0) as plan:
    model = fastinit.build(make)
seconds = time.perf_counter() - start
parameters = sum(p.numel() for p in model.parameters())
print(f"{parameters:,} parameters built in {seconds:.2f} s by one fill; some of them:\n")

# The plan kept an account of what the library's code asked for: the law, and the line of code.
print("parameter                                 law              std of the values")
manifest = plan.manifest()
for name in (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.3.mlp.down_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
):
    (drawn,) = manifest.named(name).fills
    law = f"{drawn.rule}({', '.join(f'{value:g}' for value in drawn.parameters.values())})"
    print(f"{name:42}{law:17}{model.get_parameter(name).std():.5f}")
std = model.lm_head.weight.std()
assert abs(std / CONFIG.initializer_range - 1) < 0.01

# On meta the model has shapes only. Here it could be sharded; `materialize` then gives each rank
# its part. The values are those of the model built at once, because they depend on seed and name.
deferred = fastinit.build(make, device="meta", seed=0)
assert all(p.is_meta for p in deferred.parameters())
fastinit.materialize(deferred, device="cpu")
for name, value in model.state_dict().items():
    assert torch.equal(deferred.state_dict()[name], value), name
print(
    f"\nbuilt on meta, then materialized: all {len(model.state_dict())} tensors equal bit for bit"
)

tokens = torch.arange(32).reshape(2, 16)
with torch.no_grad():
    assert torch.equal(model(tokens).logits, deferred(tokens).logits)
    loss = model(tokens, labels=tokens).loss
print(f"first loss {loss:.3f}, a uniform guess {torch.log(torch.tensor(4096.0)):.3f}")
assert abs(loss - 8.318) < 0.2
