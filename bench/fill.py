"""Fills of one tensor: fastinit.init against torch.nn.init, below the roof of `Tensor.fill_`.

    python -m bench.fill --quick
    python -m bench.fill --dtypes float32 --sizes 65536 67108864 --threads 1 2 --isas scalar avx2

Every combination of distribution, dtype, size and thread count is one JSON line; each ISA runs in a
process of its own, told by FASTINIT_ISA, with a line describing the machine first. All three
competitors write the same warm tensor in turn, and the moments of what the two random ones left are
checked against the rule.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch

import fastinit
from bench.lib.rules import Rule, check
from bench.lib.timing import (
    Elsewhere,
    alternate,
    describe_machine,
    describe_share,
    emit,
    machine,
    results,
    use_threads,
    warm,
)

RULES = {
    "constant": Rule("constant_", {"val": 0.5}),
    "uniform": Rule("uniform_", {"a": -0.1, "b": 0.1}),
    "kaiming_uniform": Rule("kaiming_uniform_"),
    "xavier_uniform": Rule("xavier_uniform_"),
    "normal": Rule("normal_", {"std": 0.02}),
    "kaiming_normal": Rule("kaiming_normal_"),
    "trunc_normal": Rule("trunc_normal_", {"std": 0.02, "a": -0.04, "b": 0.04}),
}
DTYPES = ("float32", "bfloat16", "float16", "float64")
WIDTH = 1024  # columns of the tensor, so that rules which need a fan have one
TIMED_ELEMENTS = 1 << 20  # at least so many are timed together: small tensors are filled repeatedly


def measure(distribution: str, dtype: str, size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Times one combination, with one unrecorded round first.

    Args:
        distribution: a key of `RULES`.
        dtype: name of a floating-point dtype of torch.
        size: elements; a multiple of `WIDTH`, or less than it.
        threads: what torch.get_num_threads() is set to while measuring.
        rounds: timed rounds of all competitors.

    Returns:
        the JSON record; `ratio` is torch's time over fastinit's, `of_roof` the fraction of the
        bandwidth of `Tensor.fill_`.
    """
    rule = RULES[distribution]
    width = min(WIDTH, size)
    tensor = torch.empty(size // width, width, dtype=getattr(torch, dtype))
    competitors: dict[str, Callable[[], object]] = {
        "torch": partial(rule.apply, torch.nn.init, tensor),
        "fastinit": partial(rule.apply, fastinit.init, tensor),
        "fill": partial(tensor.fill_, 1.0),
    }
    checks: dict[str, dict[str, Any]] = {}
    with use_threads(threads):
        for name, fill in competitors.items():
            fill()
            if name != "fill":
                checks[name] = {"check": check(rule, [tensor]).record()}
        elsewhere = Elsewhere()
        times = alternate(competitors, rounds=rounds, repeat=max(1, TIMED_ELEMENTS // size))
    nbytes = tensor.numel() * tensor.element_size()
    return {
        "record": "fill",
        "distribution": distribution,
        "rule": str(rule),
        "dtype": dtype,
        "elements": tensor.numel(),
        "threads": threads,
        "isa": fastinit._C.default_isa(),
        "ratio": times["torch"].over(times["fastinit"]),
        "busy_elsewhere": elsewhere.share(),
        "of_roof": times["fill"].over(times["fastinit"]),
        "competitors": {
            name: {
                **times[name].summary(),
                "gb_per_s": nbytes / times[name].median / 1e9,
                "melements_per_s": tensor.numel() / times[name].median / 1e6,
                **checks.get(name, {}),
            }
            for name in competitors
        },
    }


def run(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a description of the machine and then one record per combination, in this process."""
    largest = max(arguments.sizes) * max(
        torch.empty(0, dtype=getattr(torch, d)).element_size() for d in arguments.dtypes
    )
    warm(2 * largest)
    yield {"record": "machine", **machine()}
    for size, dtype, distribution, threads in product(
        arguments.sizes, arguments.dtypes, arguments.distributions, arguments.threads
    ):
        yield measure(distribution, dtype, size, threads, arguments.rounds)


def describe(record: dict[str, Any]) -> str:
    """One line for a person."""
    if record["record"] == "machine":
        return describe_machine(record)
    torch_times, ours, roof = (
        record["competitors"][name] for name in ("torch", "fastinit", "fill")
    )
    wrong = [n for n in ("torch", "fastinit") if not record["competitors"][n]["check"]["ok"]]
    return (
        f"{record['distribution']:16}{record['dtype']:9}{record['elements']:>10} "
        f"x{record['threads']} {record['isa']:7}"
        f"GB/s: torch {torch_times['gb_per_s']:6.2f}  fastinit {ours['gb_per_s']:6.2f}  "
        f"fill_ {roof['gb_per_s']:6.2f}   ratio {record['ratio']:7.1f}"
        + (f"   moments off: {', '.join(wrong)}" if wrong else "")
        + describe_share(record["busy_elsewhere"])
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; `--quick` stands for small sizes and few rounds where those are not given."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fill", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--distributions", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=None)
    parser.add_argument("--sizes", nargs="+", type=int, help="elements per tensor")
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument(
        "--isas",
        nargs="+",
        help="lanes to run, each in its own process (default: this machine's best)",
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument(
        "--quick", action="store_true", help="fp32 and bf16, 4 Mi elements, three rounds"
    )
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.dtypes = arguments.dtypes or ["float32", "bfloat16"]
        arguments.sizes = arguments.sizes or [1 << 22]
        arguments.rounds = arguments.rounds or 3
    arguments.dtypes = arguments.dtypes or list(DTYPES)
    arguments.sizes = arguments.sizes or [1 << 10, 1 << 16, 1 << 20, 1 << 26]
    arguments.rounds = arguments.rounds or 5
    for size in arguments.sizes:
        if size < 1 or size % min(size, WIDTH):
            parser.error(f"--sizes: {size} is not a multiple of {WIDTH}, nor below it")
    return arguments


def command(arguments: argparse.Namespace) -> list[str]:
    """The command line that has a child process write the same combinations to its stdout."""
    line = [sys.executable, "-m", "bench.fill", "--rounds", str(arguments.rounds)]
    for option in ("distributions", "dtypes", "sizes", "threads"):
        line += [f"--{option}", *map(str, getattr(arguments, option))]
    return line


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    with results(arguments.output) as stream:
        if arguments.isas:
            for isa in arguments.isas:
                environment = {**os.environ, "FASTINIT_ISA": isa}
                child = subprocess.run(
                    command(arguments),
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                stream.write(child.stdout)
        else:
            for record in run(arguments):
                emit(record, stream)
                print(describe(record), file=sys.stderr)


if __name__ == "__main__":
    main()
