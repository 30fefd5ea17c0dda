"""`fastinit bench`: this machine, torch.nn.init and fastinit by turns."""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from fastinit import config, init
from fastinit.capture.replacements import eager
from fastinit.reports.draw import Curve, draw_ratios
from fastinit.reports.page import save

_FILLS: dict[str, tuple[str, dict[str, float]]] = {
    "uniform": ("uniform_", {"a": -0.02, "b": 0.02}),
    "normal": ("normal_", {"std": 0.02}),
    "trunc_normal": ("trunc_normal_", {"std": 0.02, "a": -0.04, "b": 0.04}),
}
_DTYPES = (torch.float32, torch.bfloat16)
_SIZES = (1 << 12, 1 << 18, 1 << 24)
_QUICK = (1 << 10, 1 << 12)
_LEAST = 0.02  # seconds of a round


class Result(NamedTuple):
    """A fill of one size: seconds by torch and by fastinit, and the ratios of the rounds."""

    fill: str
    dtype: str
    elements: int
    torch: float
    ours: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small tensors alone")
    parser.add_argument("--png", metavar="FILE", type=Path, help="a picture of the ratios")
    parser.add_argument("--dark", action="store_true", help="the picture on dark paper")


def run(given: argparse.Namespace, console: Console) -> int:
    """Measure, and show a table and a block to paste; under a minute on two cores."""
    device = torch.device(given.device)
    found = []
    with console.status("measuring"):
        for elements in _QUICK if given.quick else _SIZES:
            for name in _FILLS:
                found += [measure(name, d, elements, device, given.rounds) for d in _DTYPES]
    console.print(table(found))
    console.print()
    print(block(found, device))
    if given.png is not None:
        save(draw_ratios(curves(found), dark=given.dark), given.png, "png")
        console.print(Text(f"\n{given.png}"))
    return 0


def measure(
    name: str, dtype: torch.dtype, elements: int, device: torch.device, rounds: int
) -> Result:
    """Time one fill of both, by turns, on memory that was touched."""
    function, arguments = _FILLS[name]
    tensor = torch.zeros(elements, dtype=dtype, device=device)
    theirs: Callable[..., object] = getattr(eager, function)
    ours: Callable[..., object] = getattr(init, function)
    runs: list[Callable[[], object]] = [
        lambda: theirs(tensor, **arguments),
        lambda: ours(tensor, **arguments),
    ]
    for each in runs:
        each()
    repeats = [_repeats(each, tensor) for each in runs]
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds):
        for n in (0, 1) if turn % 2 == 0 else (1, 0):
            seconds[n].append(_timed(runs[n], repeats[n], tensor))
    ratios = tuple(a / b for a, b in zip(*seconds, strict=True))
    middle = [statistics.median(s) for s in seconds]
    dtype_name = str(dtype).removeprefix("torch.")
    return Result(name, dtype_name, elements, middle[0], middle[1], ratios)


def _repeats(run: Callable[[], object], tensor: Tensor) -> int:
    """Return how many calls a round takes, so that a clock can tell."""
    return max(1, int(_LEAST / max(_timed(run, 1, tensor), 1e-7)))


def _timed(run: Callable[[], object], repeat: int, tensor: Tensor) -> float:
    """Return the seconds of one of several calls, the device's work included."""
    _wait(tensor)
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    _wait(tensor)
    return (time.perf_counter() - start) / repeat


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def table(found: list[Result]) -> Table:
    """Return a table for a person."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("fill", "dtype", "elements", "torch", "fastinit", "ratio", "spread"):
        is_number = title not in ("fill", "dtype")
        shown.add_column(title, justify="right" if is_number else "left", no_wrap=True)
    for each in found:
        shown.add_row(*_cells(each))
    return shown


def _cells(each: Result) -> tuple[str, ...]:
    return (
        each.fill,
        each.dtype,
        f"{each.elements:,}",
        _seconds(each.torch),
        _seconds(each.ours),
        f"{each.ratio:.1f}x",
        f"{min(each.ratios):.1f} to {max(each.ratios):.1f}",
    )


def curves(found: list[Result]) -> list[Curve]:
    """Return the ratios of each fill and dtype over the size."""
    kinds = dict.fromkeys((each.fill, each.dtype) for each in found)
    return [
        Curve(*kind, [(r.elements, r.ratios) for r in found if (r.fill, r.dtype) == kind])
        for kind in kinds
    ]


def _bar(ratio: float) -> str:
    """Return a bar on a logarithmic scale: three characters for each doubling."""
    return "\u2588" * max(0, round(3 * math.log2(ratio)))


def _seconds(value: float) -> str:
    if value < 1e-3:
        return f"{1e6 * value:.1f} us"
    return f"{1e3 * value:.2f} ms" if value < 1 else f"{value:.2f} s"


def block(found: list[Result], device: torch.device) -> str:
    """Return the same as Markdown, with what a reader needs to place it."""
    about = config.config()
    lines = [
        f"fastinit {about['fastinit']}, torch {about['torch']}, {_processor(device)}, "
        f"{about['threads']} threads, {about.get('ISA', about['native'])}",
        "",
        "| fill | dtype | elements | torch | fastinit | ratio | spread | 3 blocks: twice as fast |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join((*_cells(each), _bar(each.ratio)))} |" for each in found),
    ]
    return "\n".join(lines)


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
