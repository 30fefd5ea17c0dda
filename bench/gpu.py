"""Fills on a GPU: fastinit against torch, cuRAND and Triton, below what the machine allows.

    python -m bench.gpu --part single --quick
    python -m bench.gpu --output gpu.jsonl

Parts: `single` tensors larger than any cache, in all distributions, dtypes and layouts, below the
roofs of `fill_` and `copy_`; `models`, thousands of small tensors, what a call costs, and graphs;
`more`, the sizes of tiles and registers. Each result is one JSON line, with the goals it was to
reach; one that fails is a line too, and the next comes. What fastinit writes into single tensors
and models is compared with the CPU's values, bit by bit, before it is timed (bench.gpu_equal does
layouts); a difference ends it. Needs 20 GB of device memory; tensors are made smaller where there
is less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastinit
from bench.fill import RULES
from bench.lib import gpu_models, gpu_more
from bench.lib.gpu_rivals import rivals
from bench.lib.gpu_timing import Difference, Goal, device_clock, require_equal, seeded
from bench.lib.timing import Clock, alternate, describe_machine, emit, machine, results, wall_clock
from fastinit import _C
from fastinit.kernels import cuda

SASS = Path(__file__).parent / "results" / "sass.jsonl"
OF_H200 = {"SMs": 132, "GHz": 1.98}  # for which bench.sass tells how much could be issued
ROWS: dict[tuple[str, str], tuple[Goal, ...]] = {
    ("uniform", "float32"): (Goal("of_fill", 0.9),),
    ("normal", "float32"): (Goal("of_bound", 0.85),),
    ("trunc_normal", "float32"): (),
    ("uniform", "bfloat16"): (),
    ("normal", "bfloat16"): (Goal("of_issue", 0.8),),
    ("trunc_normal", "bfloat16"): (),
    ("normal", "float16"): (),
    ("normal", "float64"): (),
    ("constant", "float32"): (),
}


def odd(tensor: Tensor) -> Tensor:
    """All but the first element: units of 16 bytes lie across those of the index."""
    return tensor[1:]


def columns(tensor: Tensor) -> Tensor:
    """A quarter of the columns of a matrix of rows of 4096, as by RowwiseParallel."""
    return tensor[: len(tensor) // 4096 * 4096].view(-1, 4096)[:, 1024:2048]


def channels_last(tensor: Tensor) -> Tensor:
    """The same memory as that of a convolution 3 x 3 over 256 channels, in channels_last."""
    whole = tensor[: len(tensor) // 2304 * 2304]
    return whole.view(-1, 3, 3, 256).permute(0, 3, 1, 2)


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (odd, columns, channels_last)


def issue_bound(distribution: str, dtype: str, multiprocessors: int, ghz: float) -> float | None:
    """Return the elements a second that a GPU like Hopper's could issue, by bench.sass."""
    for line in SASS.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if (record["distribution"], record["dtype"]) == (distribution, dtype):
            scale = multiprocessors / OF_H200["SMs"] * ghz / OF_H200["GHz"]
            return float(record["bound"] * 1e12 * scale)
    return None


def clock_under_load(run: Callable[[], object], seconds: float = 0.3) -> float | None:
    """Return the multiprocessors' clock in GHz while something runs; None if nobody tells."""
    uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    one = [f"--id=GPU-{uuid}"] if uuid is not None else []
    command = ["nvidia-smi", *one, "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or asked.poll() is None:
        run()
        torch.cuda.synchronize()
    told = (asked.stdout.read() if asked.stdout else b"").split()
    return float(told[0]) / 1e3 if told and told[0].isdigit() else None


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
    """Time one tensor; compare it with the CPU first, which is the warm-up too.

    Returns:
        The JSON record. `ratio` is torch's time over fastinit's, `of_fill` the fraction of the
        bandwidth of `Tensor.fill_`, `of_issue` that of what could be issued at the clock under
        load, `of_bound` that of the lower of the two; a copy reads as much as it writes, and both
        count.
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
    others, missing = rivals(rule, tensor)
    competitors |= others
    for run in competitors.values():
        run()
    times = alternate(competitors, rounds=rounds, repeat=repeat, clock=clock)
    figures = {
        "ratio": times["torch"].over(times["fastinit"]),
        "of_fill": times["fill_"].over(times["fastinit"]),
        "elements_per_s": elements / times["fastinit"].median,
    }
    figures["of_bound"] = figures["of_fill"]
    if tensor.is_cuda and (ghz := clock_under_load(competitors["fastinit"])):
        about = torch.cuda.get_device_properties(tensor.device)
        bound = issue_bound(distribution, dtype, about.multi_processor_count, ghz)
        figures["sm_ghz"] = ghz
        if bound:
            figures["of_issue"] = figures["elements_per_s"] / bound
            figures["of_bound"] = max(figures["of_fill"], figures["of_issue"])
    nbytes = elements * tensor.element_size()
    return {
        "record": "fill",
        "distribution": distribution,
        "rule": str(rule),
        "dtype": dtype,
        "elements": elements,
        **figures,
        "goals": [g.judge(figures) for g in ROWS[distribution, dtype] if g.figure in figures],
        "missing": missing,
        "competitors": {
            name: {
                **times[name].summary(),
                "elements_per_s": elements / times[name].median,
                "gb_per_s": nbytes * (1 + (name == "copy_")) / times[name].median / 1e9,
            }
            for name in competitors
        },
    }


def measure_layout(
    view: Callable[[Tensor], Tensor],
    dtype: str,
    elements: int,
    *,
    rounds: int,
    device: str = "cuda",
    clock: Clock = device_clock,
) -> dict[str, Any]:
    """Time normals into a view of memory, beside as many in contiguous memory, and torch's."""
    rule = RULES["normal"]
    whole = torch.empty(elements, dtype=getattr(torch, dtype), device=device)
    viewed = view(whole)
    plain = whole[: viewed.numel()]
    competitors: dict[str, Callable[[], object]] = {
        "torch": partial(rule.apply, torch.nn.init, viewed),
        "fastinit": partial(rule.apply, fastinit.init, viewed),
        "contiguous": partial(rule.apply, fastinit.init, plain),
    }
    for run in competitors.values():
        run()
    times = alternate(competitors, rounds=rounds, clock=clock)
    return {
        "record": "layout",
        "layout": view.__name__,
        "dtype": dtype,
        "elements": viewed.numel(),
        "ratio": times["torch"].over(times["fastinit"]),
        "of_contiguous": times["contiguous"].over(times["fastinit"]),
        "competitors": {name: t.summary() for name, t in times.items()},
    }


def fitting(elements: int, free_bytes: int) -> int:
    """Return half as many elements, and half again, until two tensors of fp64 fit."""
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


Part = Callable[[argparse.Namespace], Iterator[tuple[str, Callable[[], dict[str, Any]]]]]


def single(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the measurements of single tensors: those with goals first."""
    on_gpu = arguments.device == "cuda"
    free = torch.cuda.mem_get_info()[0] if on_gpu else 1 << 34
    elements = fitting(arguments.elements, free)
    given = {
        "rounds": arguments.rounds,
        "device": arguments.device,
        "clock": device_clock if on_gpu else wall_clock,
    }
    for distribution, dtype in ROWS:
        run = partial(measure_fill, distribution, dtype, elements, repeat=arguments.repeat, **given)
        yield f"{distribution} {dtype}", run
    for view in LAYOUTS:
        for dtype in ("float32", "bfloat16"):
            name = f"{view.__name__} {dtype}"
            yield name, partial(measure_layout, view, dtype, elements // 4, **given)


PARTS: dict[str, Part] = {
    "single": single,
    "models": gpu_models.measurements,
    "more": gpu_more.measurements,
}


def run(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a description of the machine, and then the records as they are measured."""
    if arguments.device == "cuda":
        yield {"record": "machine", **gpu_machine()}
    for name in [arguments.part] if arguments.part else PARTS:
        for what, measure in PARTS[name](arguments):
            try:
                yield measure()
            except Difference as difference:
                sys.exit(f"bench.gpu: not what the CPU writes: {difference}")
            except Exception as error:  # the next row may be measured all the same
                yield {"record": "error", "what": what, "error": f"{type(error).__name__}: {error}"}
            if arguments.device == "cuda":
                torch.cuda.empty_cache()  # for the next, of another size


def describe(record: Mapping[str, Any]) -> str:
    """Return a few lines for a person."""
    kind = record["record"]
    if kind == "machine":
        return f"{record['gpu']}, {record['gpu_memory_gib']} GiB; " + describe_machine(record)
    if kind == "error":
        return f"{record['what']}: {record['error']}"
    if kind == "fill":
        title = f"{record['distribution']} {record['dtype']}, {record['elements']} elements"
        lines = [
            f"{name:20}{milliseconds(result)}{result['elements_per_s'] / 1e9:9.0f} G/s"
            f"{result['gb_per_s']:8.0f} GB/s"
            for name, result in record["competitors"].items()
        ]
        lines.append(f"{record['of_fill']:.2f} of fill_, {record['ratio']:.2f} times torch")
    elif kind in ("many", "model"):
        title = f"{record['case']}, {record['elements']} elements in {record['tensors']} tensors"
        lines = [
            f"{name:20}{milliseconds(result)}  {clock}"
            for clock, by_name in record["times"].items()
            for name, result in by_name.items()
        ]
    else:
        title, lines = kind, [json.dumps({k: v for k, v in record.items() if k != "record"})]
    lines += [
        f"goal: {goal['figure']} {'<=' if goal['at_most'] else '>='} {goal['bound']:g}, found "
        f"{record[goal['figure']]:.4g}{'' if goal['met'] else '   MISSED'}"
        for goal in record.get("goals", ())
    ]
    return "\n  ".join([title, *lines])


def milliseconds(result: Mapping[str, Any]) -> str:
    low, middle, high = (1e3 * result[key] for key in ("min_s", "median_s", "max_s"))
    return f"{middle:10.3f} ms ({low:.3f} .. {high:.3f})"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--part", choices=PARTS, help="by default all")
    parser.add_argument("--elements", type=int, help="of the single tensors (default: 2^30)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=3, help="fills timed together")
    parser.add_argument("--quick", action="store_true", help="2^26 elements and a tiny model")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try it")
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    arguments = parser.parse_args(argv)
    arguments.elements = arguments.elements or 1 << (26 if arguments.quick else 30)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("bench.gpu: torch finds no CUDA device")
        if reason := cuda.why_unavailable(torch.cuda.current_device()):
            sys.exit(f"bench.gpu: {reason}")
    else:  # with a stand-in for the driver, if there is one
        with suppress(RuntimeError):
            _C.cuda_load(0, b"the body is part of the driver")
    with results(arguments.output) as stream:
        for record in run(arguments):
            emit(record, stream)
            print(describe(record), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
