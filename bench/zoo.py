"""Construction of real small models, of timm and transformers, as it is and inside `build`.

    python -m bench.zoo --quick
    python -m bench.zoo --rounds 7 --output bench/results/zoo.jsonl
    python -m bench.zoo --draw bench/results/zoo.jsonl bench/results/zoo.svg
    python -m bench.zoo --check

One JSON line per model with the ratio stock/build of the seconds (above 1: fastinit is faster), and
one with the median and the worst of them. The picture has a point per model: its ratio over how
many values it has per parameter tensor, because a tensor has a price that its values pay for.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fastinit
from bench.build import Make, warm_rounds
from bench.lib.alike import differences
from bench.lib.timing import (
    Elsewhere,
    describe_machine,
    describe_share,
    emit,
    machine,
    results,
)
from bench.lib.zoo_models import constructors

QUICK = ("timm/vit_tiny*", "timm/resnet18", "transformers/deit")


def measure(name: str, make: Make, rounds: int) -> dict[str, Any]:
    """Return the JSON record of one model."""
    parameters = list(make().parameters())
    values = sum(p.numel() for p in parameters)
    size = sum(p.numel() * p.element_size() for p in parameters)
    count = len(parameters)
    del parameters
    elsewhere = Elsewhere()
    times, _ = warm_rounds(make, size, rounds)
    ratios = [
        stock / ours
        for stock, ours in zip(times["stock"].seconds, times["build"].seconds, strict=True)
    ]
    return {
        "record": "zoo",
        "case": name,
        "tensors": count,
        "values": values,
        "ratio": times["stock"].over(times["build"]),
        "spread": (min(ratios), max(ratios)),
        "competitors": {competitor: t.summary() for competitor, t in times.items()},
        "elsewhere": elsewhere.share(),
    }


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the JSON record over all models: how many, their median ratio and their worst."""
    worst = min(records, key=lambda record: float(record["ratio"]))
    return {
        "record": "summary",
        "models": {
            library: sum(record["case"].startswith(library) for record in records)
            for library in ("timm", "transformers")
        },
        "median": statistics.median(record["ratio"] for record in records),
        "worst": worst["ratio"],
        "worst_case": worst["case"],
    }


def describe(record: Mapping[str, Any]) -> str:
    """A line for a person, about a model or about all."""
    if record["record"] == "summary":
        counts = " and ".join(f"{n} of {library}" for library, n in record["models"].items())
        return (
            f"{counts}: median {record['median']:.2f}x, "
            f"worst {record['worst']:.2f}x ({record['worst_case']})"
        )
    low, high = record["spread"]
    stock, build = (1e3 * record["competitors"][c]["median_s"] for c in ("stock", "build"))
    return (
        f"{record['case']}: {record['ratio']:.2f}x ({low:.2f} to {high:.2f}); "
        f"stock {stock:.1f} ms, build {build:.1f} ms; {record['tensors']} tensors, "
        f"{record['values'] / 1e6:.1f} M values{describe_share(record['elsewhere'])}"
    )


def draw(records: Iterable[Mapping[str, Any]], path: str) -> None:
    """Write the picture: ratio over values per tensor, both logarithmic, a colour per library."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "fastinit", "font.size": 9})
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    by_library: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_library.setdefault(record["case"].partition("/")[0], []).append(record)
    for (library, of_library), colour in zip(
        by_library.items(), ("#d95f02", "#1b6ca8"), strict=True
    ):
        axes.scatter(
            [record["values"] / record["tensors"] for record in of_library],
            [record["ratio"] for record in of_library],
            s=18,
            color=colour,
            label=f"{library} ({len(of_library)})",
        )
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
    axes.set_xlabel("values per parameter tensor")
    axes.set_ylabel("construction, stock over build")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def chosen(patterns: Sequence[str]) -> dict[str, Make]:
    """The constructors whose names match."""
    found = {
        name: make
        for name, make in constructors().items()
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }
    if not found:
        raise SystemExit(f"no model of the zoo matches {' '.join(patterns)}")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.zoo", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--cases", nargs="+", default=["*"], help="names or patterns, library/name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="three models, three rounds")
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    parser.add_argument(
        "--check", action="store_true", help="compare laws, buffers, keys and ties instead"
    )
    parser.add_argument("--draw", nargs=2, metavar=("RESULTS", "SVG"), help="only draw them")
    options = parser.parse_args(argv)
    if options.draw:
        lines = Path(options.draw[0]).read_text().splitlines()
        draw((r for r in map(json.loads, lines) if r["record"] == "zoo"), options.draw[1])
        return
    warnings.filterwarnings("ignore")  # of configurations that are no released model's
    rounds = 3 if options.quick else options.rounds
    here = machine()
    print(describe_machine(here), file=sys.stderr)
    records = []
    with results(options.output) as stream:
        emit({"record": "machine", **here}, stream)
        for name, make in chosen(QUICK if options.quick else options.cases).items():
            if options.check:
                found = differences(make(), fastinit.build(make))
                emit({"record": "differences", "case": name, "found": found}, stream)
                continue
            records.append(measure(name, make, rounds))
            emit(records[-1], stream)
            print(describe(records[-1]), file=sys.stderr)
        if records:
            emit(summary(records), stream)
            print(describe(summary(records)), file=sys.stderr)


if __name__ == "__main__":
    main()
