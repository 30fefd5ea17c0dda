"""`make demo`: one model, three ways to initialise it, and what is in it afterwards.

The whole of it has 1.1 B parameters and needs about 9 GB of memory and two minutes;
`python -m bench.demo --small` shows the same for a tiny one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from bench.lib.cases import Case, llama
from bench.lib.timing import describe_machine, machine, warm
from bench.models import COMPETITORS, Subject, measure
from examples.llama import SMALL, Sizes

LABELS = {
    "torch": "torch.nn.init in a loop",
    "mmengine": "mmengine init_weights",
    "fastinit": "fastinit init_weights",
}


def cases(small: bool) -> list[tuple[Case, int]]:
    """What is shown, with the number of rounds.

    The truncated model is shallower and initialised once: torch draws truncated normals by
    rejection, at about twenty million a second on one core, which would be a minute for the whole
    of it.
    """
    whole = SMALL if small else Sizes()
    shallow = SMALL if small else Sizes(layers=5)
    return [
        (llama(f"Llama shape, {whole.layers} layers, Normal", whole), 2),
        (
            llama(f"{shallow.layers} layers, TruncNormal at 3 sigma", shallow, truncated=True),
            1,
        ),
    ]


def run(case: Case, rounds: int, console: Console) -> dict[str, Any]:
    """Measures one case behind a progress display; returns the record of bench.models.measure."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("allocating", total=rounds * len(COMPETITORS))
        subject = Subject(case)
        warm(subject.nbytes)
        progress.update(task, description=f"{subject.elements / 1e6:,.0f} M parameters")

        def on_run(name: str, seconds: float) -> None:
            progress.console.print(f"  {LABELS[name]:24}{seconds:9.3f} s")
            progress.advance(task)

        return measure(subject, rounds=rounds, on_run=on_run)


def times_table(record: dict[str, Any]) -> Table:
    """Who took how long."""
    table = new_table(
        f"{record['case']}: {record['elements'] / 1e6:,.1f} M parameters, "
        f"{record['tensors']} tensors",
        ("initialised by", "seconds", "M params/s", "ratio", "peak / model"),
    )
    for name, result in record["competitors"].items():
        peak = result["peak_over_model"]
        table.add_row(
            LABELS[name],
            f"{result['median_s']:.3f}",
            f"{result['melements_per_s']:,.0f}",
            f"{result['ratio']:.1f}",
            "-" if peak is None else f"{peak:.2f}",
            style="bold green" if name == "fastinit" else None,
        )
    return table


def moments_table(record: dict[str, Any]) -> Table:
    """What fastinit left in the parameters, against the rules."""
    table = new_table(
        "what fastinit left there, measured against the rules",
        ("parameters", "millions", "mean", "by rule", "std", "by rule", ""),
    )
    for outcome in record["competitors"]["fastinit"]["checks"]:
        table.add_row(
            outcome["group"],
            f"{outcome['elements'] / 1e6:,.1f}",
            f"{round(outcome['mean'], 6) + 0.0:.6f}",
            f"{outcome['expected_mean']:g}",
            f"{outcome['std']:.6f}",
            f"{outcome['expected_std']:.6f}",
            "ok" if outcome["ok"] else "[red]OFF[/]",
        )
    return table


def new_table(title: str, headers: Sequence[str]) -> Table:
    """A table whose first column is text and whose others are numbers; fits 80 columns."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left", no_wrap=True)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.demo", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--small", action="store_true", help="tiny models")
    arguments = parser.parse_args(argv)

    console = Console()
    console.print(describe_machine(machine()), style="dim", highlight=False)
    records = [run(case, rounds, console) for case, rounds in cases(arguments.small)]
    for record in records:
        console.print()
        console.print(Group(times_table(record), moments_table(record)))


if __name__ == "__main__":
    main()
