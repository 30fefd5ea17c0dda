"""What is left of the minutes on a GPU: sizes of tiles, registers, and the CPU beside it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.lib.gpu_timing import device_clock
from bench.lib.timing import alternate, wall_clock
from fastinit import _C

TILES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # units of 16 bytes
RULES: dict[str, tuple[int, tuple[float, ...]]] = {
    "uniform": (_C.UNIFORM, (-0.02, 0.02, 0.0, 0.0)),
    "normal": (_C.NORMAL, (0.0, 0.02, 0.0, 0.0)),
    "trunc_normal": (_C.TRUNC_NORMAL, (0.0, 0.02, -0.04, 0.04)),
}
ROOT = Path(__file__).parents[2]

Measurements = Iterator[tuple[str, Callable[[], dict[str, Any]]]]


def measurements(arguments: argparse.Namespace) -> Measurements:
    """Yield the measurements by name."""
    elements = min(arguments.elements, 1 << 28)
    given = {"rounds": arguments.rounds, "device": arguments.device}
    for name in RULES:
        yield f"tiles, {name}", partial(measure_tiles, name, elements, **given)
    if arguments.device == "cuda":
        for blocks in (3, 4):
            yield f"{blocks} blocks", partial(measure_registers, blocks, elements)
        yield "bench.fill", measure_cpu


def measure_tiles(
    name: str, elements: int, tiles: Sequence[int] = (0, *TILES), *, rounds: int, device: str
) -> dict[str, Any]:
    """Time one tensor in tiles of several sizes; 0 is what the packer chooses."""
    kind, given = RULES[name]
    tensor = torch.empty(elements, device=device)
    on_gpu = device == "cuda"
    stream = torch.cuda.current_stream().cuda_stream if on_gpu else 0
    row = (kind, _C.FLOAT32, tensor.data_ptr(), 1, 2, 0, elements, *given)

    def launch(tile: int) -> None:
        for batch in _C.cuda_pack([row], 0, tile):
            _C.cuda_launch(0, stream, batch)

    competitors = {str(tile): partial(launch, tile) for tile in tiles}
    for run in competitors.values():
        run()
    times = alternate(competitors, rounds=rounds, clock=device_clock if on_gpu else wall_clock)
    return {
        "record": "tiles",
        "distribution": name,
        "elements": elements,
        "elements_per_s": {tile: elements / t.median for tile, t in times.items()},
    }


# Told by a process of its own, because a kernel is loaded once: blocks a multiprocessor, elements.
REGISTERS = """
import json, sys, torch
from bench.lib import gpu_more
from bench.lib.gpu_timing import device_clock
from fastinit import _C
from fastinit.kernels import nvrtc
blocks, elements = map(int, sys.argv[1:])
before = "kCudaBlocksPerSm = 3"
assert before in _C.CUDA_SOURCE
source = _C.CUDA_SOURCE.replace(before, f"kCudaBlocksPerSm = {blocks}")
_C.cuda_load(0, nvrtc.compiled(source, torch.cuda.get_device_capability()))
print(json.dumps({
    name: gpu_more.measure_tiles(name, elements, (0,), rounds=5, device="cuda")["elements_per_s"]
    for name in gpu_more.RULES
}))
"""


def measure_registers(blocks: int, elements: int) -> dict[str, Any]:
    """Time the kernel with registers for so many blocks a multiprocessor: 3 leave 80, 4 leave 64.

    Raises:
        RuntimeError: there is no NVRTC, or it fails.
    """
    done = subprocess.run(
        [sys.executable, "-c", REGISTERS, str(blocks), str(elements)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-300:])
    told = json.loads(done.stdout.splitlines()[-1])
    return {"record": "registers", "blocks": blocks, "elements_per_s": told}


def measure_cpu() -> dict[str, Any]:
    """`bench.fill --quick` on the machine's CPU."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fill.jsonl"
        command = [sys.executable, "-m", "bench.fill", "--quick", "--output", str(file)]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        lines = file.read_text(encoding="utf-8").splitlines()
    return {"record": "cpu", "fill": [json.loads(line) for line in lines]}
