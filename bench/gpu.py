"""Fills on a GPU: fastinit against torch, below the roof of `Tensor.fill_`.

    python -m bench.gpu --quick
    python -m bench.gpu --output gpu.jsonl

Single tensors larger than any cache, a thousand small ones, and a model of 7 B parameters. Each
result is one JSON line, with the goals it was to reach. What fastinit writes is compared with the
CPU's values, bit by bit, before anything is timed; a difference ends the run. Needs 20 GB of device
memory; the single tensors are made smaller where there is less.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastinit
from bench.fill import RULES
from bench.lib.cases import llama
from bench.lib.gpu_models import measure_many, measure_model
from bench.lib.gpu_timing import Goal, device_clock, require_equal, seeded
from bench.lib.rules import Rule
from bench.lib.timing import Clock, alternate, describe_machine, emit, machine, results
from examples.llama import SMALL, Sizes
from fastinit.kernels import cuda

LLAMA_7B = Sizes(layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32)
ROWS: dict[tuple[str, str], tuple[Goal, ...]] = {
    ("uniform", "float32"): (Goal("of_fill", 0.9),),
    ("normal", "float32"): (Goal("ratio", 1.7), Goal("elements_per_s", 0.8e12)),
    ("normal", "bfloat16"): (Goal("ratio", 2.0),),
    ("normal", "float16"): (),
    ("normal", "float64"): (),
    ("trunc_normal", "float32"): (Goal("ratio", 6.0),),
    ("constant", "float32"): (),
}


def functional_fill(rule: Rule, tensor: Tensor) -> Callable[[], object] | None:
    """The same by torch.func._random, where this torch has it: experimental, and stateless too."""
    try:
        random = importlib.import_module("torch.func._random")
        key = random.key(1, device=tensor.device)
        if rule.function == "uniform_":
            low, high = rule.arguments["a"], rule.arguments["b"]
            run = partial(random.uniform_, key, tensor, low=low, high=high)
        elif rule.function == "normal_":
            run = partial(random.normal_, key, tensor, std=rule.arguments["std"])
        else:
            return None
        run()
    except (ImportError, AttributeError, NotImplementedError):
        return None
    return run


def measure_fill(
    distribution: str,
    dtype: str,
    elements: int,
    *,
    rounds: int,
    repeat: int = 1,
    device: str = "cuda",
    clock: Clock = device_clock,
) -> dict[str, Any]:
    """Times one tensor; compares it with the CPU first, which is the warm-up too.

    Returns:
        the JSON record. `ratio` is torch's time over fastinit's, `of_fill` the fraction of the
        bandwidth of `Tensor.fill_`; a copy reads as much as it writes, and both count.
    """
    rule = RULES[distribution]
    tensor = torch.empty(elements, dtype=getattr(torch, dtype), device=device)
    source = torch.zeros_like(tensor)
    require_equal(rule, tensor, seeded(partial(rule.apply, fastinit.init, tensor)), "#0")
    competitors: dict[str, Callable[[], object]] = {
        "torch": partial(rule.apply, torch.nn.init, tensor),
        "fastinit": partial(rule.apply, fastinit.init, tensor),
        "fill_": partial(tensor.fill_, 1.0),
        "copy_": partial(tensor.copy_, source),
    }
    functional = functional_fill(rule, tensor)
    if functional is not None:
        competitors["torch.func._random"] = functional
    for run in competitors.values():
        run()
    times = alternate(competitors, rounds=rounds, repeat=repeat, clock=clock)
    nbytes = elements * tensor.element_size()
    figures = {
        "ratio": times["torch"].over(times["fastinit"]),
        "of_fill": times["fill_"].over(times["fastinit"]),
        "elements_per_s": elements / times["fastinit"].median,
    }
    return {
        "record": "fill",
        "distribution": distribution,
        "rule": str(rule),
        "dtype": dtype,
        "elements": elements,
        **figures,
        "goals": [goal.judge(figures) for goal in ROWS[distribution, dtype]],
        "competitors": {
            name: {
                **times[name].summary(),
                "elements_per_s": elements / times[name].median,
                "gb_per_s": nbytes * (1 + (name == "copy_")) / times[name].median / 1e9,
            }
            for name in competitors
        },
    }


def fitting(elements: int, free_bytes: int) -> int:
    """Half as many elements, and half again, until two tensors of fp64 fit."""
    while elements > 1 and 2 * 8 * elements > 0.9 * free_bytes:
        elements //= 2
    return elements


def gpu_machine() -> dict[str, Any]:
    """`machine`, with the GPU."""
    properties = torch.cuda.get_device_properties(0)
    return {
        **machine(),
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "gpu_multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "fastinit_cuda": cuda.config(),
    }


def run(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a description of the machine and then the records, as they are measured."""
    yield {"record": "machine", **gpu_machine()}
    elements = fitting(arguments.elements, torch.cuda.mem_get_info()[0])
    for distribution, dtype in ROWS:
        yield measure_fill(
            distribution, dtype, elements, rounds=arguments.rounds, repeat=arguments.repeat
        )
        torch.cuda.empty_cache()  # for the next, of another size
    yield measure_many(rounds=arguments.rounds)
    case = llama("llama-small", SMALL) if arguments.quick else llama("llama-7b", LLAMA_7B)
    yield measure_model(case, rounds=arguments.rounds)


def describe(record: Mapping[str, Any]) -> str:
    """A few lines for a person."""
    if record["record"] == "machine":
        return f"{record['gpu']}, {record['gpu_memory_gib']} GiB; " + describe_machine(record)
    if record["record"] == "fill":
        title = f"{record['distribution']} {record['dtype']}, {record['elements']} elements"
        lines = [
            f"{name:20}{milliseconds(result)}{result['elements_per_s'] / 1e9:9.0f} G/s"
            f"{result['gb_per_s']:8.0f} GB/s"
            for name, result in record["competitors"].items()
        ]
        lines.append(f"{record['of_fill']:.2f} of fill_, {record['ratio']:.2f} times torch")
    else:
        title = f"{record['case']}, {record['elements']} elements in {record['tensors']} tensors"
        lines = [
            f"{name:20}{milliseconds(result)}  {clock}"
            for clock, by_name in record["times"].items()
            for name, result in by_name.items()
        ]
    lines += [
        f"goal: {goal['figure']} {'<=' if goal['at_most'] else '>='} {goal['bound']:g}, found "
        f"{record[goal['figure']]:.4g}{'' if goal['met'] else '   MISSED'}"
        for goal in record["goals"]
    ]
    return "\n  ".join([title, *lines])


def milliseconds(result: Mapping[str, Any]) -> str:
    low, middle, high = (1e3 * result[key] for key in ("min_s", "median_s", "max_s"))
    return f"{middle:10.3f} ms ({low:.3f} .. {high:.3f})"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--elements", type=int, help="of the single tensors (default: 2^30)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeat", type=int, default=3, help="fills timed together")
    parser.add_argument("--quick", action="store_true", help="2^26 elements and a tiny model")
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    arguments = parser.parse_args(argv)
    arguments.elements = arguments.elements or 1 << (26 if arguments.quick else 30)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if not torch.cuda.is_available():
        sys.exit("bench.gpu: torch finds no CUDA device")
    reason = cuda.why_unavailable(torch.cuda.current_device())
    if reason:
        sys.exit(f"bench.gpu: {reason}")
    with results(arguments.output) as stream:
        for record in run(arguments):
            emit(record, stream)
            print(describe(record), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
