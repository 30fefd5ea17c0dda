"""Whole models: torch.nn.init in a loop, mmengine's init_weights and fastinit's, by turns.

    python -m bench.models --quick
    python -m bench.models --cases llama-1.1b resnet --dtypes float32 bfloat16 --rounds 5

All competitors write the very same memory: the model exists once, and its twins on the other
BaseModule share the parameters. The torch loop writes every parameter exactly once, by the rule
that holds in the end, which is the least that torch can do; mmengine and fastinit are given the
init_cfg. With --cold each initialisation gets freshly allocated, untouched memory instead, as a
model that has just been constructed has.
"""

from __future__ import annotations

import argparse
import functools
import gc
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import mmengine.model
import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

import fastinit
from bench.lib.cases import ALL, Case, llama, small_tensors
from bench.lib.rules import Rule, check
from bench.lib.timing import (
    Elsewhere,
    PeakMemory,
    alternate,
    describe_machine,
    describe_share,
    emit,
    machine,
    results,
    warm,
)
from examples.llama import SMALL

COMPETITORS = ("torch", "mmengine", "fastinit")
KITS = {"torch": fastinit, "mmengine": mmengine.model, "fastinit": fastinit}


class Subject:
    """A case built once, with one competitor after the other initialising it."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        self.case = case
        self.dtype = dtype
        self.twins: dict[str, nn.Module] = {
            name: case.build(KITS[name], device="meta", dtype=dtype) for name in COMPETITORS
        }
        self.elements = sum(p.numel() for p in self.twins["torch"].parameters())
        self.nbytes = sum(p.numel() * p.element_size() for p in self.twins["torch"].parameters())
        self.renew()

    def renew(self) -> None:
        """Gives the model new memory that nothing has touched, having dropped the old."""
        self._grouped: dict[str, tuple[Rule, list[Tensor]]] = {}
        for twin in self.twins.values():
            twin.to(device="meta")
        gc.collect()
        first = self.twins["torch"].to_empty(device="cpu")
        for twin in self.twins.values():
            if twin is not first:
                twin.load_state_dict(first.state_dict(keep_vars=True), assign=True)

    def initialise(self, competitor: str) -> None:
        """Runs one competitor's initialisation over all parameters."""
        if competitor == "torch":
            for rule, parameters in self._grouped.values():
                for parameter in parameters:
                    rule.apply(torch.nn.init, parameter)
        else:
            self.twins[competitor].init_weights()

    def prepare(self, competitor: str) -> None:
        """What is not timed: collecting torch's parameters, letting init_weights run once more."""
        self._grouped = self.case.grouped(self.twins["torch"])
        for module in self.twins[competitor].modules():
            if hasattr(module, "is_init"):
                module.is_init = False

    def checks(self) -> list[dict[str, Any]]:
        """Measured moments per group of whatever the parameters hold now."""
        found = []
        for label, (rule, parameters) in self.case.grouped(self.twins["torch"]).items():
            outcome = check(rule, parameters).record()
            found.append({"group": label, "rule": str(rule), **outcome})
        return found


def quiet() -> None:
    """mmengine logs a line per parameter: putting it together is timed, printing it is not."""
    MMLogger.get_current_instance().setLevel(logging.ERROR)


def measure(
    subject: Subject,
    *,
    rounds: int,
    cold: bool = False,
    on_run: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Times the competitors on one subject.

    Args:
        subject: the model.
        rounds: initialisations by each competitor.
        cold: give each initialisation untouched memory; otherwise the memory is touched once
            beforehand.
        on_run: told (competitor, seconds) after each initialisation.

    Returns:
        the JSON record. `peak_over_model` is the memory needed at most while initialising, the
        model included, over the model's own size.
    """
    quiet()
    if not cold:
        with torch.no_grad():
            for parameter in subject.twins["torch"].parameters():
                parameter.fill_(0)
    checks: dict[str, list[dict[str, Any]]] = {}
    peaks: dict[str, int | None] = {}
    memory = PeakMemory()
    elsewhere = Elsewhere()

    def before(name: str) -> None:
        if cold:
            subject.renew()
        subject.prepare(name)
        memory.start()

    def after(name: str, seconds: float) -> None:
        peaks[name] = memory.extra_bytes()
        if name not in checks:
            checks[name] = subject.checks()
        if on_run is not None:
            on_run(name, seconds)

    times = alternate(
        {name: functools.partial(subject.initialise, name) for name in COMPETITORS},
        rounds=rounds,
        before=before,
        after=after,
    )
    return {
        "record": "model",
        "case": subject.case.name,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "elements": subject.elements,
        "tensors": len(list(subject.twins["torch"].parameters())),
        "memory": "cold" if cold else "warm",
        "threads": torch.get_num_threads(),
        "isa": fastinit._C.default_isa(),
        "busy_elsewhere": elsewhere.share(),
        "competitors": {
            name: {
                **times[name].summary(),
                "melements_per_s": subject.elements / times[name].median / 1e6,
                "ratio": times[name].over(times["fastinit"]),
                "peak_over_model": over_model(peaks[name], subject.nbytes, cold),
                "checks": checks[name],
            }
            for name in COMPETITORS
        },
    }


def over_model(extra_bytes: int | None, nbytes: int, cold: bool) -> float | None:
    """Peak memory over the model's size: on cold memory the model is part of what was added."""
    if extra_bytes is None:
        return None
    return (extra_bytes + (0 if cold else nbytes)) / nbytes


def describe(record: dict[str, Any]) -> str:
    """A few lines for a person."""
    lines = [
        f"{record['case']}, {record['dtype']}, {record['elements'] / 1e6:.1f} M parameters in "
        f"{record['tensors']} tensors, {record['memory']} memory"
        + describe_share(record["busy_elsewhere"])
    ]
    for name, result in record["competitors"].items():
        wrong = [outcome["group"] for outcome in result["checks"] if not outcome["ok"]]
        peak = result["peak_over_model"]
        lines.append(
            f"  {name:9}{result['median_s']:9.4f} s "
            f"({result['min_s']:.4f} .. {result['max_s']:.4f})"
            f"{result['melements_per_s']:9.0f} M/s"
            f"   x{result['ratio']:.1f}"
            + (f"   peak {peak:.3f} of the model" if peak is not None else "")
            + (f"   moments off: {', '.join(wrong)}" if wrong else "")
        )
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.models", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--cases", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch.set_num_threads, which fastinit follows")
    parser.add_argument("--cold", action="store_true", help="untouched memory for each run")
    parser.add_argument("--quick", action="store_true", help="tiny models instead of --cases")
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.quick:
        cases = [llama("llama-small", SMALL), small_tensors(100)]
    else:
        cases = [ALL[name]() for name in arguments.cases]
    with results(arguments.output) as stream:
        here = machine()
        emit({"record": "machine", **here}, stream)
        print(describe_machine(here), file=sys.stderr)
        for case in cases:
            for dtype in arguments.dtypes:
                subject = Subject(case, getattr(torch, dtype))
                warm(subject.nbytes)
                record = measure(subject, rounds=arguments.rounds, cold=arguments.cold)
                emit(record, stream)
                print(describe(record), file=sys.stderr)


if __name__ == "__main__":
    main()
