"""`fastinit doctor`: what is native, what falls back, why, and what to do."""

from __future__ import annotations

import argparse
import importlib.util
import platform
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastinit import config
from fastinit.kernels import cuda, native
from fastinit.tensors import torch_private

# What parts of fastinit use if it is there: the package, and what for.
_OPTIONAL = {
    "mmengine": "rules of its registry, and `integrations.mmengine`",
    "huggingface_hub": "hf:// checkpoints",
    "fsspec": "s3:// and gs:// checkpoints",
    "matplotlib": "pictures of `fastinit report` and `bench`",
    "shtab": "`fastinit completion`",
}


class Finding(NamedTuple):
    """A line of the report.

    Attributes:
        mark: "ok", "note" or "problem".
        what: what was looked at.
        told: what was found.
        fix: what to do; "" for nothing.
    """

    mark: str
    what: str
    told: str
    fix: str = ""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command: there are none."""


def run(given: argparse.Namespace, console: Console) -> int:
    """Show the findings; 1 if one of them is a problem."""
    found = findings()
    styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
    shown = Table.grid(padding=(0, 2, 0, 0))
    for each in found:
        shown.add_row(Text(each.mark, styles[each.mark]), Text(f"{each.what}: {each.told}"))
        if each.fix:
            shown.add_row("", Text(each.fix, "dim"))
    console.print(shown)
    return int(any(each.mark == "problem" for each in found))


def findings() -> list[Finding]:
    """Return what is found on this machine."""
    entries = config.config()
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    found = [
        Finding("ok", "fastinit", f"{entries['fastinit']}, torch {entries['torch']}; {system}"),
        _kernels(entries),
    ]
    if "CUDA" in entries:
        found.append(_cuda(entries["CUDA"]))
    lost = torch_private.missing()
    for name in lost:
        mark = "problem" if name.is_required else "note"
        path = name.path.replace(":", ".")
        found.append(
            Finding(
                mark,
                path,
                f"this torch lacks it: {name.without}",
                f"it was seen in torch {name.seen}; report which torch you use",
            )
        )
    if not lost:
        found.append(Finding("ok", "private names of torch", "all there"))
    for package, what in _OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            found.append(
                Finding("note", package, f"not installed ({what})", f"pip install {package}")
            )
    return found


def _kernels(entries: dict[str, str]) -> Finding:
    if native.why_missing:
        return Finding(
            "problem",
            "native kernels",
            f"{native.why_missing}; torch.nn.init is used, with other values",
            "install a wheel for this platform, or build from source with a C++17 compiler",
        )
    if native.selected() == "torch":
        return Finding(
            "note",
            "native kernels",
            'there, but backend "torch" is chosen',
            'fastinit.backend("auto"), or unset FASTINIT_BACKEND',
        )
    return Finding("ok", "native kernels", f"{entries['ISA']}, {entries['threads']} threads")


def _cuda(told: str) -> Finding:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return Finding("ok", "CUDA", told)
    reasons = {n: cuda.why_unavailable(n) for n in range(torch.cuda.device_count())}
    bad = {n: reason for n, reason in reasons.items() if reason}
    if not bad:
        return Finding("ok", "CUDA", f"native on {len(reasons)} devices")
    listed = "; ".join(f"cuda:{n}: {reason}" for n, reason in bad.items())
    return Finding(
        "problem",
        "CUDA",
        listed,
        "build with nvcc for these GPUs (TORCH_CUDA_ARCH_LIST), or pip install cuda-bindings",
    )
