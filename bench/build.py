"""Construction of models by their own code: as it is, and inside `fastinit.build`, by turns.

    python -m bench.build --quick
    python -m bench.build --cases llama-1.1b gpt2-large unet --rounds 3

Each run makes a new model. On warm memory, the default, the C library keeps what earlier ones have
freed, so that pages need not be had from the system again; with --cold they do. Peak memory, which
is measured with --cold only, is that of the process above what it had before, over the size of the
model.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

import fastinit
from bench.timing import (
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
    return diffusers.UNet2DConditionModel(cross_attention_dim=768)


CASES: dict[str, Callable[[], nn.Module]] = {
    "llama-1.1b": llama,
    "gpt2-large": gpt2_large,
    "unet": unet,
}
QUICK: dict[str, Callable[[], nn.Module]] = {"llama-small": lambda: llama(2, 256, 1000)}


def keep_freed_memory() -> None:
    """Let the C library (glibc) serve all sizes from its heap, and never give that back."""
    trim_threshold, mmap_max = -1, -4
    library = ctypes.CDLL(None)
    if library.mallopt(mmap_max, 0) != 1 or library.mallopt(trim_threshold, -1) != 1:
        raise RuntimeError("mallopt refused; measure with --cold")


def measure(
    name: str, make: Callable[[], nn.Module], rounds: int, cold: bool = False
) -> dict[str, Any]:
    """The JSON record of one model."""
    parameters = list(fastinit.build(make, device="meta").parameters())
    elements = sum(p.numel() for p in parameters)
    size = sum(p.numel() * p.element_size() for p in parameters)
    made: list[nn.Module] = []
    warm(size)
    if not cold:
        keep_freed_memory()
        made.append(make())  # touches the memory
    peaks: dict[str, int | None] = {}
    memory, elsewhere = PeakMemory(), Elsewhere()

    def before(_: str) -> None:
        made.clear()
        gc.collect()
        memory.start()

    def after(competitor: str, _: float) -> None:
        peaks[competitor] = memory.extra_bytes()

    times = alternate(
        {
            "stock": lambda: made.append(make()),
            "build": lambda: made.append(fastinit.build(make)),
        },
        rounds=rounds,
        before=before,
        after=after,
    )
    return {
        "record": "build",
        "case": name,
        "elements": elements,
        "memory": "cold" if cold else "warm",
        "threads": torch.get_num_threads(),
        "busy_elsewhere": elsewhere.share(),
        "ratio": times["stock"].over(times["build"]),
        "competitors": {
            competitor: {
                **times[competitor].summary(),
                "peak_over_model": peak / size if cold and peak is not None else None,
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
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.build", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="memory of the system for each run")
    parser.add_argument("--quick", action="store_true", help="a tiny model instead of --cases")
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    cases = QUICK if arguments.quick else {name: CASES[name] for name in arguments.cases}
    with results(arguments.output) as stream:
        here = machine()
        emit({"record": "machine", **here}, stream)
        print(describe_machine(here), file=sys.stderr)
        for name, make in cases.items():
            record = measure(name, make, arguments.rounds, arguments.cold)
            emit(record, stream)
            print(describe(record), file=sys.stderr)


if __name__ == "__main__":
    main()
