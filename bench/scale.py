"""That a plan grows no faster than the model: seconds at one size and at twice it, and memory.

    python -m bench.scale --quick
    python -m bench.scale --output bench/results/scale.jsonl

Each case is one JSON line: the seconds at both sizes (the quickest of a few runs), their ratio (2
is linear), and those of the same code without fastinit at the larger size. `bytes` tells by how
much the resident memory of this process grew per parameter beyond the tensors, while everything
waits, and after the fill with the plan still alive.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastinit
from bench.lib.timing import describe_machine, emit, machine, results

Run = Callable[[], object]
Case = Callable[[int], tuple[Run, Run | None]]
"""What a size means: a run with fastinit, and one without."""


def in_plan(run: Run) -> Run:
    """Run inside `fused`."""

    def fused() -> None:
        with fastinit.fused():
            run()

    return fused


def parameters(count: int) -> tuple[Run, Run]:
    """Fills of so many tensors of 16 values."""
    given = [torch.zeros(16) for _ in range(count)]

    def run() -> None:
        for tensor in given:
            nn.init.normal_(tensor)

    return in_plan(run), run


def rows(count: int) -> tuple[Run, Run]:
    """Fills of the rows of one tensor."""
    whole = torch.zeros(count, 64)

    def run() -> None:
        for n in range(count):
            nn.init.normal_(whole[n])

    return in_plan(run), run


def twice(count: int) -> tuple[Run, Run]:
    """Fills of all rows of one tensor, one by one, and then again."""
    whole = torch.zeros(count, 64)

    def run() -> None:
        for n in itertools.chain(range(count), range(count)):
            nn.init.normal_(whole[n])

    return in_plan(run), run


def flat(count: int) -> tuple[Run, Run]:
    """Fills of parameters that are parts of one storage."""
    model = nn.ParameterList(torch.zeros(count, 64).unbind())

    def run() -> None:
        for parameter in model:
            nn.init.normal_(parameter)

    def named() -> None:
        with fastinit.fused() as plan:
            plan.add_root(model)
            run()

    return named, run


def views(count: int) -> tuple[Run, Run]:
    """Fills of overlapping windows of one tensor."""
    whole = torch.zeros(count + 64)

    def run() -> None:
        for start in range(count):
            nn.init.constant_(whole[start : start + 64], start)

    return in_plan(run), run


class Nest(fastinit.BaseModule):
    """A module in a module."""

    def __init__(self, inner: nn.Module | None) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        if inner is not None:
            self.inner = inner


def nested(depth: int) -> tuple[Run, None]:
    """`init_weights` of modules that hold each other."""
    model: Nest | None = None
    for _ in range(depth):
        model = Nest(model)
    assert model is not None
    model.init_cfg = {"type": "Normal", "layer": "Linear", "std": 0.02}
    modules = _unwound(model)

    def run() -> None:
        for module in modules:
            module._is_init = False
        modules[0].init_weights()

    return run, None


def _unwound(model: Nest) -> list[Nest]:
    found = [model]
    while hasattr(found[-1], "inner"):
        found.append(found[-1].inner)  # type: ignore[arg-type]
    return found


def overrides(count: int) -> tuple[Run, None]:
    """`init_weights` by one rule with an override for each layer."""
    names = [f"layer{n}" for n in range(count)]
    override = [{"type": "Constant", "name": name, "val": n} for n, name in enumerate(names)]
    model = fastinit.BaseModule(
        init_cfg={"type": "Normal", "layer": "Linear", "std": 0.02, "override": override}
    )
    for name in names:
        model.add_module(name, nn.Linear(4, 4))

    def run() -> None:
        model._is_init = False
        model.init_weights()

    return run, None


CASES: dict[str, tuple[Case, int]] = {
    "parameters": (parameters, 100_000),
    "rows": (rows, 4_000),
    "twice": (twice, 4_000),
    "flat": (flat, 10_000),
    "views": (views, 10_000),
    "nested": (nested, 2_000),
    "overrides": (overrides, 1_000),
}


def quickest(run: Run, rounds: int) -> float:
    """Seconds of the quickest run."""
    seconds = []
    for _ in range(rounds):
        gc.collect()
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(name: str, shrink: int, rounds: int) -> dict[str, Any]:
    """The JSON record of a case."""
    case, size = CASES[name]
    size //= shrink
    once, twice = case(size), case(2 * size)
    seconds = [quickest(run, rounds) for run in (once[0], twice[0])]
    return {
        "record": "scale",
        "case": name,
        "sizes": [size, 2 * size],
        "seconds": seconds,
        "growth": seconds[1] / seconds[0],
        "without_s": quickest(twice[1], rounds) if twice[1] is not None else None,
    }


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alone(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Measure in a process of its own, which has no memory to spare."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def memory(count: int, is_named: bool) -> dict[str, Any]:
    """The JSON record of what a plan keeps of each parameter."""
    given: list[Tensor] = [nn.Parameter(torch.zeros(16)) for _ in range(count)]
    for tensor in given:
        tensor.untyped_storage()  # whose Python object then lives as long as the tensor
    model = nn.ParameterList(given if is_named else [])
    gc.collect()
    before = resident()
    with fastinit.fused() as plan:
        if is_named:
            plan.add_root(model)
        for tensor in given:
            nn.init.normal_(tensor)
        gc.collect()
        waiting = resident() - before
    gc.collect()
    after = resident() - before
    del plan
    return {
        "record": "memory",
        "parameters": count,
        "named": is_named,
        "bytes": {"waiting": waiting / count, "executed": after / count},
    }


def describe(record: dict[str, Any]) -> str:
    """A line for a person."""
    if record["record"] == "memory":
        waiting, executed = record["bytes"].values()
        kind = "with names" if record["named"] else "without names"
        return (
            f"{record['parameters']} parameters {kind}: {waiting:.0f} bytes each "
            f"while they wait, {executed:.0f} after the fill"
        )
    first, second = record["seconds"]
    without = f", {record['without_s']:.3f} s without" if record["without_s"] else ""
    return (
        f"{record['case']}: {first:.3f} s for {record['sizes'][0]}, {second:.3f} s for twice as "
        f"many ({record['growth']:.2f} times){without}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of each size, one round")
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    options = parser.parse_args(argv)
    shrink, rounds = (10, 1) if options.quick else (1, options.rounds)
    here = machine()
    print(describe_machine(here), file=sys.stderr)
    with results(options.output) as stream:
        emit({"record": "machine", **here}, stream)
        of_memory = (alone(memory, 100_000 // shrink, named) for named in (False, True))
        for record in itertools.chain(of_memory, (measure(n, shrink, rounds) for n in CASES)):
            emit(record, stream)
            print(describe(record), file=sys.stderr)


if __name__ == "__main__":
    main()
