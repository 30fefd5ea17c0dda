"""What a call costs on a GPU, a process that begins, and a graph that is replayed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fastinit
from bench.lib.gpu_timing import call_clock, done_clock
from bench.lib.timing import alternate, wall_clock
from fastinit import _C

# A process that fills one tensor, told how: the seconds of its first fill and of a second one.
COLD = """
import json, sys, time, torch, fastinit
from fastinit import _C
from fastinit.kernels import cuda, nvrtc
device, by = sys.argv[1:]
x = torch.zeros(1000, device=device)
torch.nn.init.normal_(x)
if device != "cpu":
    torch.cuda.synchronize()
seconds = []
for turn in range(2):
    start = time.perf_counter()
    if device != "cpu" and by == "nvrtc" and turn == 0:
        _C.cuda_load(0, nvrtc.compiled(_C.CUDA_SOURCE, torch.cuda.get_device_capability()))
    fastinit.init.normal_(x)
    if device != "cpu":
        torch.cuda.synchronize()
    seconds.append(time.perf_counter() - start)
print(json.dumps({"first_s": seconds[0], "second_s": seconds[1]}))
"""


def measure_call(*, rounds: int, device: str) -> dict[str, Any]:
    """Time single calls for a small tensor until they return."""
    tensor = torch.empty(64, 64, device=device)
    clock = call_clock if device == "cuda" else wall_clock
    competitors = {
        "torch": partial(torch.nn.init.normal_, tensor),
        "fastinit": partial(fastinit.init.normal_, tensor),
        "fill_": partial(tensor.fill_, 1.0),
    }
    for run in competitors.values():
        run()
    times = alternate(competitors, rounds=rounds, repeat=200, clock=clock)
    over_torch = times["fastinit"].over(times["torch"])
    return {
        "record": "call",
        "over_torch": over_torch,
        "goals": [
            {"figure": "over_torch", "bound": 1.2, "at_most": True, "met": over_torch <= 1.2}
        ],
        "times": {name: t.summary() for name, t in times.items()},
    }


def measure_graph(*, rounds: int, device: str) -> dict[str, Any]:
    """Capture fills of a hundred tensors in a graph, and time its replays; a replay writes the same
    values again."""
    tensors = [torch.empty(100 + n, 100, device=device) for n in range(100)]

    def fill() -> None:
        for tensor in tensors:
            fastinit.init.normal_(tensor, std=0.02)

    torch.manual_seed(1)
    fill()
    if device != "cuda":
        return {"record": "graph", "tensors": len(tensors), "seconds": {}}
    graph = torch.cuda.CUDAGraph()
    torch.manual_seed(2)
    with torch.cuda.graph(graph):
        fill()
    graph.replay()
    first = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.zero_()
    times = alternate({"replay": graph.replay}, rounds=rounds, clock=done_clock)
    same = all(torch.equal(one, other) for one, other in zip(first, tensors, strict=True))
    if not same:
        raise RuntimeError("a replay has written other values")
    return {
        "record": "graph",
        "tensors": len(tensors),
        "seconds": {name: t.summary() for name, t in times.items()},
    }


def measure_cold(*, device: str) -> dict[str, Any]:
    """Time the first fill of a process: with the image of the build, by NVRTC, and by what NVRTC
    has kept on disk."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        if _C.CUDA_ARCHS:
            found["image"] = _cold(device, "image", cache)
        for name in ("nvrtc", "nvrtc, kept"):
            found[name] = _cold(device, "nvrtc", cache)
    return {"record": "cold", "device": device, "seconds": found}


def _cold(device: str, by: str, cache: str) -> dict[str, Any]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COLD, device, by],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XDG_CACHE_HOME": cache},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        return {"error": done.stderr[-300:]}
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"process_s": time.perf_counter() - start, **told}
