"""What a checkpoint may hold: every kind that libraries write, and what comes of it."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import json
import pathlib
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

import fastinit
from fastinit.checkpoint.load import load_pretrained

Write = Callable[[Path], Path]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 2)


def state() -> dict[str, Tensor]:
    """Return what is loaded: other values than a new Net's, each its own."""
    torch.manual_seed(1)
    return {
        name: torch.randn(t.shape) if t.is_floating_point() else t + 5
        for name, t in Net().state_dict().items()
    }


def saved(make: Callable[[dict[str, Tensor]], Any], **options: Any) -> Write:
    def write(folder: Path) -> Path:
        torch.save(make(state()), folder / "a.pth", **options)
        return folder / "a.pth"

    return write


def history() -> HistoryBuffer:
    buffer = HistoryBuffer()
    for value in (1.0, 2.0):
        buffer.update(value)
    return buffer


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda s: {f"{prefix}{name}": t for name, t in s.items()}


class Dict(dict):  # type: ignore[type-arg]
    """A dictionary of a library's own."""


def safetensors_file(folder: Path) -> Path:
    safetensors.torch.save_file(state(), folder / "a.safetensors")
    return folder / "a.safetensors"


def without_suffix(folder: Path) -> Path:
    return safetensors_file(folder).rename(folder / "weights")


def whole_folder(name: str) -> Write:
    def write(folder: Path) -> Path:
        save = safetensors.torch.save_file if "safetensors" in name else torch.save
        save(state(), folder / name)
        (folder / "config.json").write_text("{}")
        return folder

    return write


def shards(name: str) -> Write:
    """As Hugging Face's libraries write large models."""

    def write(folder: Path) -> Path:
        stem, _, suffix = name.rpartition(".")
        places, items = {}, list(state().items())
        for n, part in enumerate((items[:3], items[3:])):
            file = f"{stem}-0000{n + 1}-of-00002.{suffix}"
            save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
            save(dict(part), folder / file)
            places |= {key: file for key, _ in part}
        index = {"metadata": {}, "weight_map": places}
        (folder / f"{name}.index.json").write_text(json.dumps(index))
        return folder

    return write


def distributed(make: Callable[[dict[str, Tensor]], Any]) -> Write:
    def write(folder: Path) -> Path:
        dcp.save(make(state()), checkpoint_id=folder / "dcp")
        return folder / "dcp"

    return write


def runner(folder: Path) -> Path:
    """A checkpoint of mmengine's Runner, with a moving average."""
    from mmengine.model import ExponentialMovingAverage

    net = Net()
    net.load_state_dict(state())
    average = ExponentialMovingAverage(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    content = {
        "meta": {"epoch": 1, "cfg": Config(dict(a=1)), "time": datetime.datetime.now()},
        "state_dict": net.state_dict(),
        "ema_state_dict": average.state_dict(),
        "message_hub": {"log_scalars": {"loss": history()}, "runtime": {"n": np.float64(3)}},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, folder / "epoch_1.pth")
    return folder / "epoch_1.pth"


def compiled(folder: Path) -> Path:
    net = Net()
    net.load_state_dict(state())
    torch.save(torch.compile(net).state_dict(), folder / "a.pth")
    return folder / "a.pth"


def timms(folder: Path) -> Path:
    """A checkpoint of timm's training script."""
    args = argparse.Namespace(model="resnet18", lr=0.1)
    content = {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": state(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "version": 2,
        "args": args,
        "state_dict_ema": {name: t + 1 for name, t in state().items()},
        "metric": np.float64(71.5),
    }
    torch.save(content, folder / "last.pth.tar")
    return folder / "last.pth.tar"


def lightning(s: dict[str, Tensor]) -> Any:
    return {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.0",
        "state_dict": {f"model.{name}": t for name, t in s.items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.ones(1)}},
        "hyper_parameters": ConfigDict(lr=1),
    }


def in_one_storage(s: dict[str, Tensor]) -> dict[str, Tensor]:
    floats = {name: t for name, t in s.items() if t.is_floating_point()}
    flat = torch.cat([t.flatten() for t in floats.values()])
    parts = flat.split([t.numel() for t in floats.values()])
    return s | {n: p.view(s[n].shape) for n, p in zip(floats, parts, strict=True)}


LOADS: dict[str, tuple[Write, dict[str, Any]]] = {
    "state dict": (saved(lambda s: s), {}),
    "state dict of a module": (saved(collections.OrderedDict), {}),
    "before torch 1.6": (saved(lambda s: s, _use_new_zipfile_serialization=False), {}),
    "safetensors": (safetensors_file, {}),
    "safetensors without a suffix": (without_suffix, {}),
    "under state_dict": (saved(lambda s: {"state_dict": s, "epoch": 3}), {}),
    "under model": (saved(lambda s: {"model": s, "epoch": 3}), {}),
    "under module, of DeepSpeed": (saved(lambda s: {"module": s, "lr": 1.0}), {}),
    "under params, of BasicSR": (saved(lambda s: {"params": s}), {}),
    "under a name of its own": (saved(lambda s: {"encoder_q": s, "epoch": 1}), {}),
    "two levels down": (saved(lambda s: {"a": {"model": s}}), {}),
    "teacher of two": (saved(lambda s: {"teacher": s, "student": {}}), {}),
    "teacher by key": (
        saved(lambda s: {"teacher": s, "student": {n: t * 0 for n, t in s.items()}}),
        {"key": "teacher"},
    ),
    "by a key with dots": (saved(lambda s: {"a": {"b.c": s}, "d": s}), {"key": "a.b.c"}),
    "moving average by key": (
        saved(lambda s: {"model": {n: t * 0 for n, t in s.items()}, "model_ema": s}),
        {"key": "model_ema"},
    ),
    "DataParallel": (saved(prefixed("module.")), {}),
    "torch.compile": (compiled, {}),
    "compiled and DataParallel": (saved(prefixed("module._orig_mod.")), {}),
    "FSDP": (saved(prefixed("_fsdp_wrapped_module.")), {}),
    "below a prefix": (saved(prefixed("backbone.")), {"prefix": "backbone"}),
    "Lightning": (saved(lightning), {"prefix": "model"}),
    "other names": (
        saved(prefixed("net_")),
        {"revise_keys": [(r"^net_", "")]},
    ),
    "mmengine's Runner": (runner, {}),
    "mmengine's Runner, average": (runner, {"key": "ema_state_dict"}),
    "timm's training": (timms, {}),
    "Namespace, as MAE and DeiT": (
        saved(lambda s: {"model": s, "args": argparse.Namespace(lr=1.0)}),
        {},
    ),
    "NumPy scalars and arrays": (
        saved(lambda s: {"model": s, "a": np.float32(1), "b": np.arange(3), "c": np.int64(2)}),
        {},
    ),
    "history of mmengine": (saved(lambda s: {"state_dict": s, "h": history()}), {}),
    "ConfigDict": (saved(lambda s: {"state_dict": s, "m": ConfigDict(a=dict(b=1))}), {}),
    "times and paths": (
        saved(lambda s: {"model": s, "t": datetime.timedelta(1), "p": pathlib.Path("/a")}),
        {},
    ),
    "a defaultdict": (saved(lambda s: {"model": collections.defaultdict(list, s)}), {}),
    "a dictionary of a library's own": (saved(lambda s: {"model": s, "d": Dict(a=1)}), {}),
    "parameters": (
        saved(lambda s: {n: nn.Parameter(t, t.is_floating_point()) for n, t in s.items()}),
        {},
    ),
    "float64": (
        saved(lambda s: {n: t.double() if t.is_floating_point() else t for n, t in s.items()}),
        {},
    ),
    "one storage for all": (saved(lambda s: in_one_storage(s)), {}),
    "folder with safetensors": (whole_folder("model.safetensors"), {}),
    "folder of diffusers": (whole_folder("diffusion_pytorch_model.safetensors"), {}),
    "folder with pytorch_model.bin": (whole_folder("pytorch_model.bin"), {}),
    "folder with one file": (whole_folder("last.pth"), {}),
    "shards of safetensors": (shards("model.safetensors"), {}),
    "shards of torch.save": (shards("pytorch_model.bin"), {}),
    "torch.distributed.checkpoint": (distributed(lambda s: s), {}),
    "torch.distributed.checkpoint, nested": (
        distributed(lambda s: {"model": s, "step": 3, "optim": {"lr": [0.1]}}),
        {},
    ),
}


@pytest.mark.parametrize("kind", LOADS)
def test_loads(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write, options = LOADS[kind]
    net = Net()
    load_pretrained(net, write(tmp_path), **options, strict="average" not in kind)
    found = net.state_dict()
    assert [n for n, t in state().items() if not torch.equal(found[n], t)] == []


def of_bytes(content: bytes, name: str = "a.pth") -> Write:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def scripted(folder: Path) -> Path:
    torch.jit.script(nn.Linear(2, 2)).save(str(folder / "a.pt"))
    return folder / "a.pt"


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return folder / "a.zip"


def cut(folder: Path) -> Path:
    path = saved(lambda s: s)(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def tarred(folder: Path) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(saved(lambda s: s)(folder), "a.pth")
    return folder / "a.tar"


def whole_model(folder: Path) -> Path:
    torch.save(Net(), folder / "a.pth")
    return folder / "a.pth"


def two_files(folder: Path) -> Path:
    for name in ("a.pth", "b.pth"):
        (folder / name).write_bytes(b"")
    return folder


def index_outside(folder: Path) -> Path:
    index = {"weight_map": {"head.weight": "../a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def index_of_nothing(folder: Path) -> Path:
    (folder / "model.safetensors.index.json").write_text("[1]")
    return folder


def without_a_shard(folder: Path) -> Path:
    shards("model.safetensors")(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


REFUSED: dict[str, tuple[Write, str]] = {
    "empty": (of_bytes(b""), "it is empty; the download or the copy may have failed"),
    "HTML": (of_bytes(b"<!DOCTYPE html><html></html>"), "it is a page of HTML or XML"),
    "pointer of git-lfs": (of_bytes(b"version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
    "gzip": (of_bytes(gzip.compress(b"x" * 99)), "it is packed by gzip; unpack it"),
    "HDF5": (of_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "an HDF5 file, as Keras writes"),
    "GGUF": (of_bytes(b"GGUF" + bytes(90)), "a GGUF file"),
    "NumPy": (of_bytes(b"\x93NUMPY" + bytes(90)), "a NumPy array"),
    "JSON": (of_bytes(b'{"a": 1}', "config.json"), "it is JSON; give the folder of an index"),
    "text": (of_bytes(b"hello there"), "it begins with b'hello there'"),
    "zip of something else": (zipped, r"zip archive of something else \(readme.txt\)"),
    "tar": (tarred, "could not be read|no checkpoint, or damaged"),
    "cut off": (cut, "its end is missing or damaged"),
    "TorchScript": (scripted, "a TorchScript archive, which holds code; convert it once"),
    "a whole model": (whole_model, "holds no state dict.* it is a Net"),
    "a tensor": (saved(lambda s: torch.ones(2)), "holds no state dict"),
    "nothing that is named": (saved(lambda s: {3: torch.ones(2)}), "holds no state dict"),
    "several of which none is usual": (
        saved(lambda s: {"teacher": s, "student": s}),
        "holds weights under 'teacher', 'student'; choose with key='teacher'",
    ),
    "folder with nothing": (lambda folder: folder, "is a folder, .* no file in it is one"),
    "folder with two": (two_files, "give one of its files: a.pth, b.pth"),
    "index that names another folder": (index_outside, "names '../a.safetensors', which is no"),
    "index that is none": (index_of_nothing, "is no index of a checkpoint"),
    "index without a shard": (without_a_shard, "names 'model-00002-of-00002.safetensors'"),
    "another model's": (
        saved(lambda s: {"stem.conv.weight": torch.ones(2)}),
        "nothing in .* fits Net: it has 'stem.conv.weight', the model 'body.0.weight', .* another",
    ),
    "of which a prefix would fit": (
        saved(prefixed("net.backbone.")),
        "with prefix='net.backbone' they would fit",
    ),
    "of which the model is a part": (
        saved(lambda s: {n.removeprefix("head."): t for n, t in s.items() if "head" in n}),
        "the model has them below 'body.0': give the rule to that part",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str, tmp_path: Path) -> None:
    write, message = REFUSED[kind]
    net = Net()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    rule = {"type": "Pretrained", "checkpoint": str(write(tmp_path))}
    with fastinit.backend("native"), pytest.raises(RuntimeError, match=message):
        fastinit.initialize(net, [{"type": "Constant", "layer": "Linear", "val": 1}, rule])
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


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


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_names_like_those_of_wrappers(prefix: str, tmp_path: Path) -> None:
    saved_net, net = Wrapped(), Wrapped()
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


# --- the page -------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def page() -> str:
    """Return docs/checkpoints.md: every kind of checkpoint that is tried here, and its outcome."""
    lines = [
        "# Kinds of checkpoints",
        "",
        "What `Pretrained` makes of them. Each row is a test (in tests/checkpoint/),",
        "which writes such a file by the library that does; test_contents.py writes this page.",
        "",
        "| checkpoint | outcome |",
        "|---|---|",
    ]
    for kind, (_, options) in LOADS.items():
        given = ", ".join(f"`{name}={value!r}`" for name, value in options.items())
        lines.append(f"| {kind} | loads{f' with {given}' if given else ''} |")
    for kind, (_, message) in REFUSED.items():
        told = message.replace("\\", "").replace(".*", "...").replace("|", " or ")
        lines.append(f"| {kind} | RuntimeError: {told} |")
    lines += [
        "| pickle protocol 4, old files with foreign objects | UnpicklingError: how to convert |",
        "| foreign objects that call functions (13 kinds, in 4 formats) | nothing runs |",
        "| headers of safetensors that lie (7 kinds) | RuntimeError: damaged |",
    ]
    return "\n".join(lines) + "\n"


def test_the_page_is_what_is_tried() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
