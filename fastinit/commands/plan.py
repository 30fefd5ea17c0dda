"""`fastinit plan`: who writes what, without memory for the model."""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from fastinit.capture.fused import fused
from fastinit.commands.factory import factory
from fastinit.manifest.manifest import Manifest, Written
from fastinit.manifest.words import law, std
from fastinit.models.build import build
from fastinit.warning import NotInitializedWarning


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODULE:FACTORY", help="package.module:fn or file.py:fn")
    parser.add_argument("--seed", type=int, default=0, help="of the plan (default: 0)")
    parser.add_argument("--no-init-weights", action="store_true", help="the constructor's alone")
    parser.add_argument("--json", action="store_true", help="the manifest, to standard output")
    parser.add_argument("--html", metavar="FILE", type=Path, help="a page to sort and to filter")


def run(given: argparse.Namespace, console: Console) -> int:
    """Show the plan of a model; 1 if parameters are not written."""
    manifest = planned(given)
    if given.json:
        print(manifest.to_json())
    elif given.html is not None:
        given.html.write_text(page(manifest, given.model), encoding="utf-8")
        console.print(f"{given.html}: {summary(manifest)}")
    else:
        console.print(table(manifest))
        for rule in manifest.unmatched:
            console.print(Text.assemble(("matches nothing: ", "yellow"), rule))
        console.print(summary(manifest))
    return int(any(tensor.status == "unwritten" for tensor in manifest.tensors))


def planned(given: argparse.Namespace) -> Manifest:
    """Return the manifest of a model that is made on meta."""
    make = factory(given.model)
    wanted = False if given.no_init_weights else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manifest = _manifest(make, given.seed, wanted)
    if wanted is None and any(w.category is NotInitializedWarning for w in caught):
        return _manifest(make, given.seed, True)  # what no constructor has run
    return manifest


def _manifest(make: Callable[[], nn.Module], seed: int, init_weights: bool | None) -> Manifest:
    with fused(seed) as plan:
        build(make, device="meta", strict=False, init_weights=init_weights)
    return plan.manifest()


def table(manifest: Manifest) -> Table:
    """Return a table of 80 columns: what stands out is what nobody or more than one writes."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("parameter", overflow="fold", ratio=3)
    shown.add_column("shape", no_wrap=True)
    shown.add_column("law", overflow="fold", ratio=3)
    shown.add_column("std", justify="right", no_wrap=True)
    shown.add_column("by", overflow="fold", ratio=3)
    for tensor in manifest.tensors:
        deviation = std(tensor)
        style = {"unwritten": "bold red", "computed": "dim"}.get(tensor.status, "")
        shown.add_row(
            " = ".join((tensor.name, *tensor.aliases)),
            _shape(tensor),
            Text(law(tensor) + (f" (written {tensor.writes}x)" if tensor.writes > 1 else "")),
            "" if deviation is None else f"{deviation:.3g}",
            Text(_short(by(tensor))),
            style=style,
        )
    return shown


def _shape(tensor: Written) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def by(tensor: Written) -> str:
    """Return who asked for a tensor's values."""
    return "; ".join(dict.fromkeys(drawn.origin for drawn in tensor.fills if drawn.origin))


def _short(origin: str) -> str:
    """Return torch's own places without the way to them."""
    return re.sub(r"\btorch\.nn\.modules\.", "", origin).replace(", line ", ":")


def summary(manifest: Manifest) -> str:
    """Return a line of numbers."""
    elements = sum(_elements(tensor) for tensor in manifest.tensors)
    counts = {
        status: sum(tensor.status == status for tensor in manifest.tensors)
        for status in ("filled", "computed", "unwritten")
    }
    told = ", ".join(f"{n:,} {status}" for status, n in counts.items() if n)
    twice = sum(tensor.writes > 1 for tensor in manifest.tensors)
    again = f"; {twice:,} written more than once" if twice else ""
    dead = f"; {len(manifest.unmatched)} rules match nothing" if manifest.unmatched else ""
    return f"{len(manifest.tensors):,} tensors, {elements:,} values: {told}{again}{dead}"


def _elements(tensor: Written) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def page(manifest: Manifest, title: str) -> str:
    """Return the same as one page of HTML, which needs no network."""
    template = Template((Path(__file__).parent / "plan.html").read_text(encoding="utf-8"))
    rows = [_row(tensor) for tensor in manifest.tensors]
    return template.substitute(
        title=_escaped(title),
        summary=_escaped(summary(manifest)),
        dead=_escaped_list(manifest.unmatched),
        rows=json.dumps(rows).replace("<", "\\u003c"),
    )


def _row(tensor: Written) -> dict[str, Any]:
    return {
        "parameter": " = ".join((tensor.name, *tensor.aliases)),
        "shape": _shape(tensor),
        "values": _elements(tensor),
        "dtype": tensor.dtype,
        "law": law(tensor),
        "std": std(tensor),
        "by": by(tensor),
        "stream": ", ".join(dict.fromkeys(drawn.stream for drawn in tensor.fills)),
        "writes": tensor.writes,
        "status": tensor.status,
    }


def _escaped(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text


def _escaped_list(texts: Iterable[str]) -> str:
    return "".join(f"<li>{_escaped(text)}</li>" for text in texts)
