"""Valid files with a few bytes changed: they load, or are one error, and the model is whole.

`make fuzz` tries 20 000; otherwise a few hundred.
"""

from __future__ import annotations

import pickle
import random
import warnings
from pathlib import Path

import pytest
import torch
from test_contents import Net, distributed, runner, safetensors_file, saved, shards, state

from fastinit.checkpoint.load import load_pretrained

FILES = {
    "torch.save": saved(lambda s: s),
    "before torch 1.6": saved(lambda s: s, _use_new_zipfile_serialization=False),
    "safetensors": safetensors_file,
    "mmengine's Runner": runner,
    "shards": shards("model.safetensors"),
    "torch.distributed.checkpoint": distributed(lambda s: {"model": s}),
}
# What is documented; torch reports some damage as an AttributeError or the like, which we wrap.
ERRORS = (RuntimeError, pickle.UnpicklingError, KeyError, OSError, ValueError, MemoryError)


def mutated(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    kind = dice.randrange(4)
    for _ in range(dice.choice((1, 1, 2, 8))):
        place = dice.randrange(len(changed))
        if kind == 0:
            changed[place] = dice.randrange(256)
        elif kind == 1:
            changed[place] ^= 1 << dice.randrange(8)
        elif kind == 2:
            del changed[place : place + dice.randrange(1, 9)]
        else:
            changed[place:place] = dice.randbytes(dice.randrange(1, 9))
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("kind", FILES)
def test_they_load_or_are_one_error(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    dice = random.Random(kind)
    path = FILES[kind](tmp_path)
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    whole = {file: file.read_bytes() for file in files}
    before = sorted(p.name for p in tmp_path.rglob("*"))
    names = state().keys()
    tries = 20_000 // len(FILES) if request.config.getoption("--thorough") else 60
    refused = 0
    for _ in range(tries):
        file = dice.choice(files)
        file.write_bytes(mutated(whole[file], dice))
        net = Net()
        own = {name: t.clone() for name, t in net.state_dict().items()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_pretrained(net, path)
        except ERRORS:
            refused += 1
            assert all(torch.equal(own[name], t) for name, t in net.state_dict().items())
        assert net.state_dict().keys() == names
        assert all(t.shape == own[name].shape for name, t in net.state_dict().items())
        file.write_bytes(whole[file])
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert 0 < refused < tries
