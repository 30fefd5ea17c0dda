"""`fastinit verify`: which tensors still hold their initial values."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fastinit.commands.factory import factory
from fastinit.commands.tensors import is_factory, tensors_of
from fastinit.manifest.manifest import Manifest
from fastinit.manifest.read import load
from fastinit.manifest.verify import verify


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "what", metavar="CHECKPOINT|MODULE:FACTORY", help="a checkpoint, or a model"
    )
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="of plan.to_json()")
    parser.add_argument(
        "--prefix", default="", help="of the manifest's names, and not the checkpoint's"
    )
    parser.add_argument("--all", action="store_true", help="list the others, too")


def run(given: argparse.Namespace, console: Console) -> int:
    """Show which tensors hold their initial values; 1 if any does."""
    model = _model(given.what)
    manifest = _manifest(given.manifest)
    answers = verify(model, manifest, prefix=given.prefix)
    if answers and all(answer is None for answer in answers.values()):
        known = [tensor.name for tensor in manifest.tensors]
        raise ValueError(
            f"no tensor of {given.what} is in {given.manifest}: the first is called "
            f"{next(iter(answers))!r}, and {known[0]!r} in the manifest"
            if known
            else f"{given.manifest} has no tensors"
        )
    told = {True: "as initialised", False: "changed", None: "unknown"}
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("tensor", overflow="fold")
    shown.add_column("values", no_wrap=True)
    for name, answer in answers.items():
        if answer or given.all:
            shown.add_row(name, told[answer], style="bold yellow" if answer else "")
    if shown.row_count:
        console.print(shown)
    counts = {text: sum(a is key for a in answers.values()) for key, text in told.items()}
    console.print(", ".join(f"{n} {text}" for text, n in counts.items() if n))
    return int(any(answers.values()))


def _manifest(path: Path) -> Manifest:
    try:
        return load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no manifest, which is JSON text of plan.to_json()") from None


def _model(what: str) -> nn.Module:
    """Return the model that a text names, or a module with the tensors of a checkpoint."""
    return factory(what)() if is_factory(what) else _Holder(tensors_of(what))


class _Holder(nn.Module):
    """Tensors under their names."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *above, last = name.split(".")
            inner: nn.Module = self
            for step in above:
                if step not in inner._modules:
                    inner.add_module(step, nn.Module())
                inner = inner.get_submodule(step)
            inner.register_buffer(last, torch.as_tensor(tensor))
