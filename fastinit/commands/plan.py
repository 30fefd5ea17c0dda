"""`fastinit plan`: who writes what, without memory for the model."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastinit.commands.factory import built, factory
from fastinit.manifest.manifest import Manifest, Written
from fastinit.manifest.words import law, std
from fastinit.reports.page import page


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
        given.html.write_text(as_page(manifest, given.model), encoding="utf-8")
        console.print(f"{given.html}: {summary(manifest)}")
    else:
        console.print(table(manifest, console.width))
        for rule in manifest.unmatched:
            console.print(Text.assemble(("matches nothing: ", "yellow"), rule))
        console.print(summary(manifest))
    return int(any(tensor.status == "unwritten" for tensor in manifest.tensors))


def planned(given: argparse.Namespace) -> Manifest:
    """Return the manifest of a model that is made on meta."""
    wanted = False if given.no_init_weights else None
    return built(factory(given.model), given.seed, device="meta", init_weights=wanted)[1]


_COLUMNS = ("parameter", "shape", "law", "", "std", "by")
_LEAST = {0: 28, 5: 18, 2: 12}
"""By the number of a column, the characters at which it folds where there is no room for more; the
first gets what room there is."""


def table(manifest: Manifest, width: int = 80) -> Table:
    """Return a table: what stands out is what nobody or more than one writes."""
    rows = [_cells(tensor) for tensor in manifest.tensors]
    wanted = [max(map(len, cells)) for cells in zip(_COLUMNS, *rows, strict=True)]
    widths = _widths(wanted, width - (len(_COLUMNS) - 1))
    shown = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for heading, cells in zip(_COLUMNS, widths, strict=True):
        justify: Any = "right" if heading == "std" else "left"
        shown.add_column(heading, width=cells, overflow="fold", justify=justify)
    for (name, *others), tensor in zip(rows, manifest.tensors, strict=True):
        style = {"unwritten": "bold red", "computed": "dim"}.get(tensor.status, "")
        shown.add_row(Text(_at_dots(name, widths[0])), *map(Text, others), style=style)
    return shown


def _cells(tensor: Written) -> tuple[str, ...]:
    deviation = std(tensor)
    return (
        _names(tensor),
        _shape(tensor),
        law(tensor),
        f"{tensor.writes}x" if tensor.writes > 1 else "",
        "" if deviation is None else f"{deviation:.3g}",
        _short(by(tensor)),
    )


def _widths(wanted: list[int], room: int) -> list[int]:
    found = [min(width, _LEAST.get(column, width)) for column, width in enumerate(wanted)]
    for column in _LEAST:
        found[column] += max(0, min(wanted[column] - found[column], room - sum(found)))
    return found


def _at_dots(name: str, width: int) -> str:
    """Return a name in lines that end behind its dots."""
    lines = [""]
    for part in re.findall(r"[^.]*\.?", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _names(tensor: Written) -> str:
    return " = ".join((tensor.name, *tensor.aliases))


def _shape(tensor: Written) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def by(tensor: Written) -> str:
    """Return who asked for a tensor's values."""
    return "; ".join(dict.fromkeys(drawn.origin for drawn in tensor.fills if drawn.origin))


def _short(origin: str) -> str:
    """Return places in code as the last name of the module, and the line."""
    return re.sub(r"(?:\w+\.)*(\w+)\.[\w<>]+, line (\d+)", r"\1:\2", origin)


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


def as_page(manifest: Manifest, title: str) -> str:
    """Return the same as one page of HTML, which needs no network."""
    columns = ("parameter", "shape", "values", "dtype", "law", "writes", "std", "by", "stream")
    dead = [f"matches nothing: {rule}" for rule in manifest.unmatched]
    rows = [_row(tensor) for tensor in manifest.tensors]
    return page(f"plan of {title}", summary(manifest), columns, rows, notes=dead)


def _row(tensor: Written) -> dict[str, Any]:
    return {
        "parameter": _names(tensor),
        "shape": _shape(tensor),
        "values": _elements(tensor),
        "dtype": tensor.dtype,
        "law": law(tensor),
        "writes": tensor.writes,
        "std": std(tensor),
        "by": by(tensor),
        "stream": ", ".join(dict.fromkeys(drawn.stream for drawn in tensor.fills)),
        "status": {"unwritten": "flagged", "computed": "dim"}.get(tensor.status, ""),
    }
