"""A model, other values for it, and what writes them to a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

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


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda s: {f"{prefix}{name}": t for name, t in s.items()}


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
