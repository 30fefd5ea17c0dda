"""`fastinit report`: the values of a model or checkpoint, and what they do to a signal."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from fastinit.commands.factory import built, factory
from fastinit.commands.tensors import is_factory, tensors_of
from fastinit.reports.compare import Comparison, compare
from fastinit.reports.page import page, save
from fastinit.reports.report import Report, report
from fastinit.reports.widths import Coordinates, coordinate_check

Found = Report | Comparison | Coordinates


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "what",
        metavar="MODULE:FACTORY|CHECKPOINT",
        nargs="+",
        help="a model or a checkpoint; two of them are compared",
    )
    parser.add_argument(
        "--input",
        metavar="SHAPE|MODULE:FN",
        help="of a batch: 8,3,224,224 of normals, or a function that returns the arguments",
    )
    parser.add_argument("--widths", metavar="N,N,...", help="muP's coordinate check: FACTORY(N)")
    parser.add_argument("--steps", type=int, default=3, help="of that check (default: 3)")
    parser.add_argument(
        "--optimizer",
        metavar="MODULE:FN",
        help="of that check: a function of the model (default: Adam at 1e-3)",
    )
    parser.add_argument("--manifest", metavar="FILE", type=Path, help="of plan.to_json()")
    parser.add_argument("--seed", type=int, default=0, help="of a model (default: 0)")
    parser.add_argument("--png", metavar="FILE", type=Path, help="a picture")
    parser.add_argument("--dark", action="store_true", help="the picture on dark paper")
    parser.add_argument("--html", metavar="FILE", type=Path, help="a page, pictures included")
    parser.add_argument("--json", action="store_true", help="all numbers, to standard output")


def run(given: argparse.Namespace, console: Console) -> int:
    """Show the report; 1 if something is flagged."""
    found, flagged = found_by(given)
    if given.json:
        print(found.to_json())
    else:
        _show(found, console)
    if given.png is not None:
        save(found.figure(dark=given.dark), given.png, "png")
    if given.html is not None:
        given.html.write_text(as_page(found, " and ".join(given.what)), encoding="utf-8")
    for path in filter(None, (given.png, given.html)):
        if not given.json:
            console.print(Text(str(path)))
    return int(flagged)


def found_by(given: argparse.Namespace) -> tuple[Found, bool]:
    """Return what the arguments ask for, and whether something in it is flagged."""
    if len(given.what) > 2:
        raise ValueError(f"one model or two are reported on, got {len(given.what)}")
    inputs = None if given.input is None else batch(given.input)
    if given.widths is not None:
        checked = _widths(given, inputs)
        return checked, bool(checked.growing)
    if len(given.what) == 2:
        if inputs is not None:
            raise ValueError("--input is for one model, and two are compared")
        first, second = (_model(what, given.seed)[0] for what in given.what)
        return compare(first, second), False
    model, manifest = _model(given.what[0], given.seed)
    if given.manifest is not None:
        manifest = given.manifest.read_text(encoding="utf-8")
    reported = report(model, inputs, manifest=manifest)
    return reported, bool(reported.flags)


def _widths(given: argparse.Namespace, inputs: Any) -> Coordinates:
    if inputs is None:
        raise ValueError("--widths trains the model: give it a batch by --input")
    if len(given.what) > 1 or not is_factory(given.what[0]):
        raise ValueError("--widths takes one MODULE:FACTORY, a function of the width")
    try:
        widths = [int(part) for part in given.widths.split(",")]
    except ValueError:
        raise ValueError(
            f"--widths must be numbers as in 128,256,512, got {given.widths!r}"
        ) from None
    make = factory(given.what[0])
    try:
        inspect.signature(make).bind(widths[0])
    except TypeError:
        raise ValueError(
            f"--widths calls {given.what[0]} with a width: write a function of one argument"
        ) from None
    optimizer = None if given.optimizer is None else factory(given.optimizer)
    return coordinate_check(
        lambda width: built(lambda: make(width), given.seed)[0],  # type: ignore[call-arg]
        widths,
        inputs,
        steps=given.steps,
        optimizer=optimizer,  # type: ignore[arg-type]
    )


def _model(what: str, seed: int) -> tuple[Any, Any]:
    """Return a model with the manifest of its plan, or the tensors of a checkpoint."""
    if not is_factory(what):
        return tensors_of(what), None
    return built(factory(what), seed)


def batch(text: str) -> Any:
    """Return the batch that a text names: normals of a shape, or what a function returns.

    Raises:
        ValueError: the shape has something that is no positive number.
    """
    if is_factory(text):
        return factory(text)()
    try:
        shape = [int(part) for part in text.split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise ValueError(
            f"--input must be a shape as in 8,3,224,224, or module:function, got {text!r}"
        )
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _show(found: Found, console: Console) -> None:
    console.print(found.table())
    if isinstance(found, Report) and found.layers:
        console.print()
        console.print(found.signal_table())
    console.print(Text(found.summary()))


def as_page(found: Found, title: str) -> str:
    """Return one page of HTML, which needs no network, with the picture on light and dark paper."""
    rows = list(_rows(found))
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = sorted(keys.keys() - {"status"}, key=lambda key: (key == "flags", [*keys].index(key)))
    return page(f"report of {title}", found.summary(), columns, rows, drawn=found)


def _rows(found: Found) -> Sequence[Mapping[str, Any]]:
    if isinstance(found, Coordinates):
        start, end, growing = found.exponents(0), found.exponents(), found.growing
        return [
            {
                "layer": name,
                "exponent at the start": start[name],
                "exponent after training": end[name],
                "status": "flagged" if name in growing else "",
            }
            for name in found.layers
        ]
    if isinstance(found, Comparison):
        return [
            {
                "tensor": change.name,
                "std": change.std[0],
                "std then": change.std[1],
                "change": change.change,
                "cosine": change.cosine,
                "status": "flagged" if change.is_equal else "",
            }
            for change in found.changes
        ]
    tensors = [
        {
            "name": t.name,
            "shape": "x".join(map(str, t.shape)) or "scalar",
            "law": t.law,
            "mean": t.mean,
            "std": t.std,
            "its rule's": t.expected,
            "flags": "; ".join(t.flags),
            "status": "flagged" if t.flags else "",
        }
        for t in found.tensors
    ]
    layers = [
        {
            "name": layer.name or layer.kind,
            "activation": layer.activation,
            "gradient": layer.gradient,
            "flags": "; ".join(layer.flags),
            "status": "flagged" if layer.flags else "",
        }
        for layer in found.layers
    ]
    return [*tensors, *layers]
