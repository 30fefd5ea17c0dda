"""What a checkpoint may hold: every kind that libraries write, and what comes of it."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import json
import pathlib
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
from checkpoint_files import Net, Write, prefixed, saved, shards, state
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

import fastinit
from fastinit.checkpoint.load import load_pretrained


def history() -> HistoryBuffer:
    buffer = HistoryBuffer()
    for value in (1.0, 2.0):
        buffer.update(value)
    return buffer


class Dict(dict):  # type: ignore[type-arg]
    """A dictionary of a library's own."""


class List(list):  # type: ignore[type-arg]
    """A list of a library's own."""


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
    "a dictionary of a library's own": (
        saved(lambda s: {"model": s, "d": Dict(a=1), "l": List([1, 2]), "m": List([3])}),
        {},
    ),
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
