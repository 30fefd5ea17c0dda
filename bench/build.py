"""Construction of models by their own code: as it is, and inside `fastinit.build`, by turns.

    python -m bench.build --quick
    python -m bench.build --cases llama-1.1b gpt2-large unet --rounds 3

Each run makes a new model. On warm memory, the default, the C library keeps what earlier ones have
freed, so that pages need not be had from the system again. With --cold each run is a process of its
own, which has them from the system and whose peak of memory can be told: above what it had before,
over the size of the model. Recording is what `fused` adds to a construction that fills nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import fastinit
from bench.lib.alike import differences
from bench.lib.timing import (
    Elsewhere,
    PeakMemory,
    Times,
    alternate,
    describe_machine,
    describe_share,
    emit,
    machine,
    results,
    warm,
)


def llama(layers: int = 22, hidden: int = 2048, vocabulary: int = 32000) -> nn.Module:
    """transformers' Llama, by default of 1.1 B parameters."""
    config = transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=4,
        vocab_size=vocabulary,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2_large() -> nn.Module:
    """transformers' GPT-2 large: 774 M parameters, its head tied to its embedding."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=1280, n_layer=36, n_head=20))


def unet() -> nn.Module:
    """diffusers' UNet of Stable Diffusion 1.5: 860 M parameters."""
    import diffusers  # seconds, in every process of a cold run

    return diffusers.UNet2DConditionModel(cross_attention_dim=768)


Make = Callable[[], nn.Module]
CASES: dict[str, Make] = {
    "llama-1.1b": llama,
    "gpt2-large": gpt2_large,
    "unet": unet,
}
QUICK: dict[str, Make] = {"llama-small": lambda: llama(2, 256, 1000)}


def keep_freed_memory() -> None:
    """Let the C library (glibc) serve all sizes from its heap, and never give that back."""
    trim_threshold, mmap_max = -1, -4
    library = ctypes.CDLL(None)
    if library.mallopt(mmap_max, 0) != 1 or library.mallopt(trim_threshold, -1) != 1:
        raise RuntimeError("mallopt refused; measure with --cold")


class Unfilled(TorchFunctionMode):
    """Lets a model's code run without its fills."""

    _FILLS = (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Of torch.nn.init, or of a library that has put its own functions there.
        is_init = "tensor" in kwargs and hasattr(torch.nn.init, func.__name__)
        if func in self._FILLS or is_init:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def recording(make: Callable[[], nn.Module], rounds: int) -> dict[str, float]:
    """Seconds of a construction inside `fused`, up to the fill, and of one that fills nothing."""

    def recorded(run: Callable[[], object], _: int) -> float:
        gc.collect()
        with fastinit.fused() if run is inside else Unfilled():
            model = None  # which outlives the clock
            start = time.perf_counter()
            model = run()
            seconds = time.perf_counter() - start
            del model  # so that nothing is filled: nobody has it any more
            gc.collect()
        return seconds

    def inside() -> nn.Module:
        return make()

    times = alternate({"fused": inside, "bare": make}, rounds=rounds, clock=recorded)
    return {f"{name}_s": times[name].median for name in times}


def warm_rounds(
    make: Callable[[], nn.Module], size: int, rounds: int
) -> tuple[dict[str, Times], dict[str, int | None]]:
    """Times in this process, on memory that it keeps."""
    made: list[nn.Module] = []
    warm(size)
    keep_freed_memory()
    made.append(make())  # touches the memory

    def before(_: str) -> None:
        made.clear()
        gc.collect()

    builds = {"stock": make, "build": lambda: fastinit.build(make)}
    times = alternate(
        {name: lambda run=run: made.append(run()) for name, run in builds.items()},  # type: ignore[misc]
        rounds=rounds,
        before=before,
    )
    return times, dict.fromkeys(builds)


def cold_rounds(
    case: str, size: int, rounds: int
) -> tuple[dict[str, Times], dict[str, int | None]]:
    """Times and largest peaks of processes that build one model each."""
    peaks: dict[str, int | None] = {}

    def clock(run: Callable[[], object], _: int) -> float:
        competitor, seconds, peak = run()  # type: ignore[misc]
        peaks[competitor] = max(peak, peaks.get(competitor) or 0) if peak is not None else None
        return float(seconds)

    def process(competitor: str) -> tuple[str, float, int | None]:
        command = [sys.executable, "-m", "bench.build", "--once", case, competitor, str(size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return competitor, *json.loads(done.stdout)

    competitors = {name: partial(process, name) for name in ("stock", "build")}
    return alternate(competitors, rounds=rounds, clock=clock), peaks


def once(case: str, competitor: str, size: int) -> tuple[float, int | None]:
    """Seconds and peak of memory of one construction in this process."""
    make = (CASES | QUICK)[case]
    fastinit.build(make, device="meta")  # imports what is imported at first use
    warm(size)
    gc.collect()
    memory = PeakMemory()
    memory.start()
    start = time.perf_counter()
    model = make() if competitor == "stock" else fastinit.build(make)
    seconds = time.perf_counter() - start
    del model
    return seconds, memory.extra_bytes()


def measure(
    name: str, make: Callable[[], nn.Module], rounds: int, cold: bool = False
) -> dict[str, Any]:
    """The JSON record of one model."""
    parameters = list(fastinit.build(make, device="meta").parameters())
    elements = sum(p.numel() for p in parameters)
    size = sum(p.numel() * p.element_size() for p in parameters)
    elsewhere = Elsewhere()
    times, peaks = cold_rounds(name, size, rounds) if cold else warm_rounds(make, size, rounds)
    return {
        "record": "build",
        "case": name,
        "elements": elements,
        "memory": "cold" if cold else "warm",
        "threads": torch.get_num_threads(),
        "busy_elsewhere": None if cold else elsewhere.share(),
        "ratio": times["stock"].over(times["build"]),
        "recording": recording(make, 5),
        "competitors": {
            competitor: {
                **times[competitor].summary(),
                "peak_over_model": None if peak is None else peak / size,
            }
            for competitor, peak in peaks.items()
        },
    }


def describe(record: dict[str, Any]) -> str:
    """A few lines for a person."""
    lines = [
        f"{record['case']}, {record['elements'] / 1e6:.0f} M parameters, "
        f"{record['memory']} memory: x{record['ratio']:.1f}"
        + describe_share(record["busy_elsewhere"])
    ]
    for name, result in record["competitors"].items():
        peak = result["peak_over_model"]
        lines.append(
            f"  {name:6}{result['median_s']:8.3f} s "
            f"({result['min_s']:.3f} .. {result['max_s']:.3f})"
            + (f"   peak {peak:.3f} of the model" if peak is not None else "")
        )
    fused, bare = (1e3 * record["recording"][key] for key in ("fused_s", "bare_s"))
    lines.append(f"  recording {fused - bare:.1f} ms (inside fused {fused:.1f}, bare {bare:.1f})")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.build", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="memory of the system for each run")
    parser.add_argument("--quick", action="store_true", help="a tiny model instead of --cases")
    parser.add_argument(
        "--check", action="store_true", help="compare laws, buffers, keys and ties instead"
    )
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)  # one run of --cold
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.once:
        case, competitor, size = arguments.once
        print(json.dumps(once(case, competitor, int(size))))
        return
    cases = QUICK if arguments.quick else {name: CASES[name] for name in arguments.cases}
    with results(arguments.output) as stream:
        here = machine()
        emit({"record": "machine", **here}, stream)
        print(describe_machine(here), file=sys.stderr)
        for name, make in cases.items():
            if arguments.check:
                found = differences(make(), fastinit.build(make))
                emit({"record": "differences", "case": name, "found": found}, stream)
                continue
            record = measure(name, make, arguments.rounds, arguments.cold)
            emit(record, stream)
            print(describe(record), file=sys.stderr)


if __name__ == "__main__":
    main()
