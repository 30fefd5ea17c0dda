"""Pretrained weights in several files of safetensors, as Hugging Face's libraries write them.

    python examples/sharded_safetensors.py

The checkpoint is a folder: shards, and an index that says which shard has which parameter.
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from fastinit import BaseModule


class Body(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.embed = nn.Embedding(100, 32)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)


class Classifier(BaseModule):
    """A pretrained body, and a head that is new."""

    def __init__(self, checkpoint):
        super().__init__(init_cfg=dict(type="TruncNormal", std=0.02, layer="Linear"))
        self.body = Body(dict(type="Pretrained", checkpoint=checkpoint, prefix="model"))
        self.head = nn.Linear(32, 10)


def write_shards(folder, weights, per_shard):
    """Write weights in shards of so many tensors, and their index; return where each one is."""
    names = list(weights)
    groups = [names[i : i + per_shard] for i in range(0, len(names), per_shard)]
    files = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        save_file({name: weights[name].contiguous() for name in group}, folder / file)
        files.update(dict.fromkeys(group, file))
    size = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return files


torch.manual_seed(0)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    trained = Body()
    weights = {f"model.{key}": value for key, value in trained.state_dict().items()}
    files = write_shards(folder, weights, per_shard=2)

    model = Classifier(checkpoint=name)
    model.init_weights()

    print("parameter          std     comes from")
    for key, value in model.state_dict().items():
        source = files.get(f"model.{key.removeprefix('body.')}", "the model's rule, TruncNormal")
        print(f"{key:18} {value.std():.4f}  {source}")
    for key, value in trained.state_dict().items():
        assert torch.equal(model.body.state_dict()[key], value), key
    assert abs(model.head.weight.std() / 0.02 - 1) < 0.1
    assert bool((model.head.bias == 0).all())

    # A shard that is missing is an error that names it, and the model stays as it was.
    (folder / files["model.down.weight"]).unlink()
    damaged = Body(dict(type="Pretrained", checkpoint=name, prefix="model"))
    before = damaged.up.weight.clone()
    try:
        damaged.init_weights()
    except Exception as error:
        print(f"without one shard: {type(error).__name__}: {str(error).replace(name, 'FOLDER')}")
    else:
        raise AssertionError("a shard is missing")
    assert torch.equal(damaged.up.weight, before)
