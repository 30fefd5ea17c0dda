"""Which entries of a checkpoint are loaded, under which names, and with which options."""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_files import Net, prefixed, saved, shards, state
from torch import Tensor, nn

import fastinit
from fastinit.checkpoint.load import load_pretrained


def test_what_torch_refuses_is_told_how_to_convert(tmp_path: Path) -> None:
    """Protocols that weights_only does not know, and old files with foreign objects."""
    objects = {"model": state(), "args": argparse.Namespace(lr=1)}
    for n, write in enumerate(
        (
            saved(lambda s: s, pickle_protocol=4),
            saved(lambda s: objects, _use_new_zipfile_serialization=False),
        )
    ):
        path = write(tmp_path)
        with pytest.raises(pickle.UnpicklingError, match="convert it once: checkpoint ="):
            load_pretrained(Net(), path)
        converted = torch.load(path, weights_only=False)
        torch.save(converted, tmp_path / f"{n}.pth")
        load_pretrained(Net(), tmp_path / f"{n}.pth", strict=True)


def test_no_dictionary_of_that_name(tmp_path: Path) -> None:
    path = saved(lambda s: {"model": s, "ema": s})(tmp_path)
    with pytest.raises(KeyError, match="no weights under key='teacher'; it has 'model', 'ema'"):
        load_pretrained(Net(), path, key="teacher")


def test_quantised_and_half_entries(tmp_path: Path) -> None:
    weight = torch.quantize_per_tensor(torch.randn(2, 4), 0.1, 0, torch.qint8)
    torch.save({"head.weight": weight, "head.bias": torch.ones(2).bfloat16()}, tmp_path / "a.pth")
    net = Net()
    load_pretrained(net, tmp_path / "a.pth")
    assert torch.equal(net.head.weight, weight.dequantize())
    assert bool((net.head.bias == 1).all())


def test_strict(tmp_path: Path) -> None:
    path = saved(lambda s: s | {"more": torch.ones(1)})(tmp_path)
    net = Net()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    rule = {"type": "Pretrained", "checkpoint": str(path), "strict": True}
    with fastinit.backend("native"), pytest.raises(RuntimeError, match="not in the model: more"):
        fastinit.initialize(net, rule)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


def test_options_that_are_misspelt() -> None:
    with pytest.raises(TypeError, match="takes no 'revise_key'; did you mean 'revise_keys'"):
        fastinit.PretrainedInit("a.pth", revise_key=[])
    with pytest.raises(TypeError, match="checkpoint must be a path or a URL, got None"):
        fastinit.PretrainedInit(None)  # type: ignore[arg-type]


def test_cuda_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="map_location='cuda', but this machine has no CUDA"):
        load_pretrained(Net(), saved(lambda s: s)(tmp_path), map_location="cuda")


class TestResizing:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_input_channels_are_timms(self, dtype: torch.dtype, tmp_path: Path) -> None:
        from bench.lib import zoo_models

        zoo_models.of("timm/resnet18")  # which lets timm be imported
        from timm.models import adapt_input_conv

        weight = torch.randn(8, 3, 5, 5).to(dtype)
        torch.save({"weight": weight, "bias": torch.zeros(8)}, tmp_path / "a.pth")
        for channels in (1, 2, 4, 6, 7, 13):
            conv = nn.Conv2d(channels, 8, 5, dtype=dtype)
            load_pretrained(conv, tmp_path / "a.pth", adapt_input_conv=True, strict=True)
            assert torch.equal(conv.weight.detach(), adapt_input_conv(channels, weight)), channels
        with pytest.raises(RuntimeError, match="size mismatch for weight"):
            load_pretrained(nn.Conv2d(1, 8, 5), tmp_path / "a.pth", strict=True)

    @pytest.mark.parametrize("tokens", [0, 1, 2])
    def test_position_embeddings_are_timms(self, tokens: int, tmp_path: Path) -> None:
        from bench.lib import zoo_models

        zoo_models.of("timm/resnet18")  # which lets timm be imported
        from timm.layers.pos_embed import resample_abs_pos_embed

        old = torch.randn(1, tokens + 49, 16)
        torch.save({"pos_embed": old, "weight": torch.ones(2)}, tmp_path / "a.pth")
        net: Any = nn.Module()
        net.pos_embed = nn.Parameter(torch.zeros(1, tokens + 100, 16))
        net.weight = nn.Parameter(torch.zeros(2))
        load_pretrained(net, tmp_path / "a.pth", interpolate_pos_embed=True, strict=True)
        expected = resample_abs_pos_embed(
            old, [10, 10], [7, 7], num_prefix_tokens=tokens, antialias=True
        )
        torch.testing.assert_close(net.pos_embed.detach(), expected)

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("pos_embed", (1, 50, 16), (1, 101, 8)),
            ("pos_embed", (1, 50, 16), (2, 101, 16)),
            ("pos_embed", (1, 7, 16), (1, 11, 16)),
            ("pos_embed", (50,), (101,)),
            ("embed", (1, 50, 16), (1, 101, 16)),
            ("weight", (8, 3, 5, 5), (4, 1, 5, 5)),
            ("weight", (8, 3, 5, 5), (8, 1, 3, 3)),
            ("weight", (8, 4, 5, 5), (8, 1, 5, 5)),
        ],
    )
    def test_others_are_refused(
        self, name: str, old: tuple[int, ...], new: tuple[int, ...], tmp_path: Path
    ) -> None:
        torch.save({name: torch.ones(old)}, tmp_path / "a.pth")
        net = nn.Module()
        setattr(net, name, nn.Parameter(torch.zeros(new)))
        asked = {"interpolate_pos_embed": True, "adapt_input_conv": True, "strict": True}
        with pytest.raises(RuntimeError, match=f"size mismatch for {name}"):
            load_pretrained(net, tmp_path / "a.pth", **asked)
        assert not getattr(net, name).any()


def test_of_several_dictionaries_the_others_are_named(tmp_path: Path) -> None:
    other = {"conv.weight": torch.ones(3)}
    torch.save({"model": other, "ema": other, "epoch": 3}, tmp_path / "a.pth")
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="the file also holds 'model', 'ema', for key="):
        load_pretrained(layer, tmp_path / "a.pth")


def test_memory_is_that_of_one_tensor(tmp_path: Path) -> None:
    """Loading a file of 128 MiB costs little beside the model."""
    code = """
import sys, torch
from torch import nn
from fastinit.checkpoint.load import load_pretrained
model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(8)))
def own():  # without pages of the file, which are the system's
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])
before = own()
load_pretrained(model, sys.argv[1])
print((own() - before) >> 10)
"""
    state = {f"{n}.weight": torch.ones(2048, 2048) for n in range(8)}
    for name, save in (("a.pth", torch.save), ("a.safetensors", safetensors.torch.save_file)):
        save(state, tmp_path / name)
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 40, name  # MiB; the file has 128


def linear(value: float) -> dict[str, Tensor]:
    return {"weight": torch.full((2, 2), value), "bias": torch.full((2,), value)}


CHOICES: dict[str, tuple[Any, dict[str, Any], float]] = {
    "the top has tensors": ({**linear(1), "ema": {**linear(4), "steps": torch.ones(1)}}, {}, 1),
    "a number is no tensor": ({"model": linear(2), "epoch": torch.tensor(3)}, {}, 2),
    "state_dict comes first": ({"state_dict": linear(3), "model": linear(4)}, {}, 3),
    "model comes before others": ({"ema": linear(3), "model": linear(4)}, {}, 4),
}


@pytest.mark.parametrize("case", CHOICES)
def test_the_dictionary_of_several(case: str, tmp_path: Path) -> None:
    content, options, value = CHOICES[case]
    torch.save(content, tmp_path / "a.pth")
    layer = nn.Linear(2, 2)
    load_pretrained(layer, tmp_path / "a.pth", **options)
    assert bool((layer.weight == value).all())


def test_what_an_optimizer_keeps_is_no_model(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "momentum": linear(5)}, tmp_path / "a.pth")
    with pytest.raises(RuntimeError, match="holds no state dict"):
        load_pretrained(nn.Linear(2, 2), tmp_path / "a.pth")
    layer = nn.Linear(2, 2)
    load_pretrained(layer, tmp_path / "a.pth", key="momentum")  # as a momentum encoder is one
    assert bool((layer.weight == 5).all())


class Wrapped(nn.Module):
    """A model with a part called `module`, and one whose name ends like a wrapper's."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.linear = nn.Linear(2, 2), nn.Linear(2, 2)
        self.my_orig_mod = nn.Linear(2, 2)


class Inside(nn.Module):
    """A model whose only part is called `module`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)


@pytest.mark.parametrize("kind", [Wrapped, Inside])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_names_like_those_of_wrappers(kind: Any, prefix: str, tmp_path: Path) -> None:
    saved_net, net = kind(), kind()
    torch.save(prefixed(prefix)(saved_net.state_dict()), tmp_path / "a.pth")
    load_pretrained(net, tmp_path / "a.pth", strict=True)
    expected = saved_net.state_dict()
    assert all(torch.equal(expected[name], t) for name, t in net.state_dict().items())


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_prefix_inside_of_wrappers(wrapper: str, tmp_path: Path) -> None:
    torch.save(prefixed(f"{wrapper}backbone.")(state()), tmp_path / "a.pth")
    net = Net()
    load_pretrained(net, tmp_path / "a.pth", "backbone", strict=True)
    assert torch.equal(net.head.weight, state()["head.weight"])


def test_an_index_says_which_file(tmp_path: Path) -> None:
    folder = shards("model.safetensors")(tmp_path)
    last = folder / "model-00002-of-00002.safetensors"
    held = safetensors.torch.load_file(last) | {"body.0.weight": torch.full((4, 4), 5.0)}
    safetensors.torch.save_file(held, last)
    net = Net()
    load_pretrained(net, folder, strict=True)
    assert torch.equal(net.body[0].weight, state()["body.0.weight"])  # type: ignore[arg-type]


def test_two_entries_of_one_name(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"revise_keys gives 'a\.weight' and 'b\.weight' one name, 'weight'"
    ):
        load_pretrained(nn.Linear(2, 2), tmp_path / "a.pth", revise_keys=[(r"^[ab]\.", "")])
    for wrapper in ("module", "_orig_mod"):
        both = {f"{wrapper}.weight": torch.ones(2, 2), "weight": torch.zeros(2, 2)}
        torch.save(both, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=rf"wrappers gives '{wrapper}\.weight' and 'weight'"):
            load_pretrained(nn.Linear(2, 2), tmp_path / "a.pth")


@pytest.mark.parametrize("revisions", [("^a", ""), [("(", "")], [("a",)], [(1, "")], "ab"])
def test_revisions_that_are_none(revisions: Any, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="give pairs of a regular expression"):
        load_pretrained(nn.Linear(2, 2), tmp_path / "a.pth", revise_keys=revisions)
