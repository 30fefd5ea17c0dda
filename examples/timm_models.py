"""Models of timm, built by its own code: one fill, and an account of who drew what.

    python examples/timm_models.py

timm draws its truncated normals by a chain of five operations; a plan makes one exact draw of them.
"""

from collections import Counter

import timm
import torch

import fastinit

print("model                  parameters  laws of its tensors")
for name in ("resnet18", "vit_tiny_patch16_224", "convnext_atto"):
    with fastinit.fused(seed=0) as plan:
        model = fastinit.build(lambda name=name: timm.create_model(name))
    manifest = plan.manifest()
    # Filled by rules, or computed by code: a batch norm's counter, a layer scale times ones.
    laws = Counter(t.fills[0].rule if t.fills else t.status for t in manifest.tensors)
    count = sum(p.numel() for p in model.parameters())
    print(f"{name:23}{count:<12,}{', '.join(f'{n} {law}' for law, n in laws.most_common())}")

    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 224, 224)).isfinite().all()

    # On meta first: there it could be sharded. The values depend on seed and name alone.
    deferred = fastinit.build(lambda name=name: timm.create_model(name), device="meta", seed=0)
    fastinit.materialize(deferred, device="cpu")
    for key, value in model.state_dict().items():
        assert torch.equal(deferred.state_dict()[key], value), key
print("Each of them, built on meta and materialized, is the same bit for bit.\n")

with fastinit.fused(seed=0) as plan:
    vit = fastinit.build(lambda: timm.create_model("vit_tiny_patch16_224"))
print("parameter of the ViT      law                                           std     largest")
for name in ("pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"):
    (drawn,) = plan.manifest().named(name).fills
    law = f"{drawn.rule}({', '.join(f'{k}={v:.3g}' for k, v in drawn.parameters.items())})"
    law += "".join(f".{operation}" for operation, _ in drawn.tail)
    value = vit.get_parameter(name)
    print(f"{name:26}{law:46}{value.std():.4f}  {value.abs().max():.4f}")
    if drawn.rule == "trunc_normal":
        assert value.min() >= drawn.parameters["a"]
        assert value.max() <= drawn.parameters["b"]
