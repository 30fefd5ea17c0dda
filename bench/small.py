"""What a tensor costs: many small tensors, and small modules, ours and others' by turns.

    python -m bench.small --quick
    python -m bench.small --cases init_weights fused --rounds 21 --output bench/results/small.jsonl

Each case is one JSON line with the ratio other/ours of the medians (above 1: fastinit is faster)
and the spread of the ratios of single rounds. Garbage is collected before each run, and the
collector is left on, as it is for users.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import mmengine.model
import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

import fastinit
from bench.lib.timing import (
    Elsewhere,
    alternate,
    describe_machine,
    describe_share,
    emit,
    machine,
    results,
)

Run = Callable[[], object]
RULE = {"type": "Normal", "std": 0.02, "layer": "Linear"}


def tensors(count: int) -> list[Tensor]:
    """Tensors of 256 values."""
    return [torch.zeros(16, 16) for _ in range(count)]


def over(fill: Callable[..., Tensor], given: list[Tensor]) -> Run:
    """Fill each tensor by a call."""

    def run() -> None:
        for tensor in given:
            fill(tensor, 0.0, 0.02)

    return run


def inside(run: Run) -> Run:
    """Run inside `fused`."""

    def fused() -> None:
        with fastinit.fused():
            run()

    return fused


def by_attribute(given: list[Tensor]) -> Run:
    """Fill each tensor by `torch.nn.init.normal_`, looked up at each call."""

    def run() -> None:
        for tensor in given:
            nn.init.normal_(tensor, 0.0, 0.02)

    return run


def with_init_cfg(kit: Any, count: int) -> tuple[Run, list[Tensor]]:
    """`init_weights` of many small layers, and their weights."""
    layers = [nn.Linear(16, 16, bias=False) for _ in range(count)]
    model = kit.Sequential(*layers, init_cfg=dict(RULE))

    def run() -> None:
        model._is_init = False
        model.init_weights()

    return run, list(model.parameters())


def modules(make: Callable[[], nn.Module], count: int) -> dict[str, Run]:
    """Construction as it is, and inside `build`."""

    def stock() -> nn.Module:
        return nn.Sequential(*[make() for _ in range(count)])

    return {"stock": stock, "fastinit": lambda: fastinit.build(stock)}


def case(name: str, count: int) -> dict[str, Run]:
    """Return the competitors of a case by name, fastinit's last."""
    normal_ = nn.init.normal_  # imported before a plan is open
    if name == "init_weights":
        ours, weights = with_init_cfg(fastinit, count)
        return {
            "torch": over(normal_, weights),
            "mmengine": with_init_cfg(mmengine.model, count)[0],
            "fastinit": ours,
        }
    given = tensors(count)
    plain = over(normal_, given)
    if name == "alone":
        return {"torch": plain, "fastinit": over(fastinit.init.normal_, given)}
    if name == "fused":
        return {"torch": plain, "fastinit": inside(over(fastinit.init.normal_, given))}
    if name == "fused-attribute":
        return {"torch": plain, "fastinit": inside(by_attribute(given))}
    if name == "fused-imported":
        return {"torch": plain, "fastinit": inside(plain)}
    makers: dict[str, Callable[[], nn.Module]] = {
        "build-linear": lambda: nn.Linear(64, 64),
        "build-batchnorm": lambda: nn.BatchNorm2d(64),
        "build-layernorm": lambda: nn.LayerNorm(64),
    }
    return modules(makers[name], count)


CASES = (
    "init_weights",
    "alone",
    "fused",
    "fused-attribute",
    "fused-imported",
    "build-linear",
    "build-batchnorm",
    "build-layernorm",
)


def measure(name: str, count: int, rounds: int) -> dict[str, Any]:
    """Return the JSON record of a case; `ratio` is by the competitor's name."""
    if name.startswith("build"):
        count = max(1, count // 20)
    competitors = case(name, count)
    for run in competitors.values():
        run()
    times = alternate(competitors, rounds=rounds, before=lambda _: gc.collect())
    ours = times["fastinit"]
    others = {other: times[other] for other in times if other != "fastinit"}
    return {
        "case": name,
        "count": count,
        "us_each": {other: 1e6 * times[other].median / count for other in times},
        "ratio": {other: t.over(ours) for other, t in others.items()},
        "spread": {
            other: _quartiles([x / y for x, y in zip(t.seconds, ours.seconds, strict=True)])
            for other, t in others.items()
        },
    }


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--count", type=int, help="tensors, and twenty times the modules")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1000, not 15 of 10 000")
    parser.add_argument("--output", help="write JSON lines there")
    options = parser.parse_args(argv)
    count = options.count or (1000 if options.quick else 10_000)
    rounds = options.rounds or (3 if options.quick else 15)
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    here = machine()
    print(describe_machine(here), file=sys.stderr)
    with results(options.output) as stream:
        emit({"record": "machine", **here}, stream)
        for name in options.cases:
            elsewhere = Elsewhere()
            record = measure(name, count, rounds)
            share = elsewhere.share()
            emit({"record": "small", **record, "elsewhere": share}, stream)
            ratios = ", ".join(
                f"{ratio:.2f}x {other} ({low:.2f} to {high:.2f})"
                for (other, ratio), (low, high) in zip(
                    record["ratio"].items(), record["spread"].values(), strict=True
                )
            )
            each = ", ".join(f"{n} {us:.2f}" for n, us in record["us_each"].items())
            print(f"{name}: {ratios}; us each: {each}{describe_share(share)}", file=sys.stderr)


if __name__ == "__main__":
    main()
