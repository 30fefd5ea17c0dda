"""What a fill on a GPU costs the host, without a GPU: with the tests' stand-in for a driver, whose
launches are noted and not carried out.

    python -m bench.gpu_host

Torch's own call is on the CPU, for one element: its launch on a GPU costs more than that.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import fastinit
from bench.lib.timing import alternate, emit, machine, results
from fastinit import _C, init
from fastinit.kernels import cuda
from fastinit.tensors import torch_private
from fastinit.tensors.parts import parts

HELPERS = Path(__file__).parents[1] / "tests" / "helpers"


class Many(fastinit.BaseModule):
    """Parameters that an `init_weights` of its own fills in a loop."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.empty(1000) for _ in range(count))
        self.filled = list(self.weights)

    def init_weights(self) -> None:
        for weight in self.filled:
            init.normal_(weight, std=0.02)


@contextmanager
def stand_in() -> Iterator[Any]:
    """A driver whose GPU is this process; all tensors are its memory."""
    sys.path.insert(0, str(HELPERS))
    fake_cuda: Any = importlib.import_module("fake_cuda")
    with tempfile.TemporaryDirectory() as folder:
        driver = fake_cuda.install(Path(folder))
    own = {"exchange": driver.exchange, "cuda_stream": lambda device: 0, "parts": parts}
    _C.bind({**torch_private.for_recorder(), **own})
    driver.put_all(0)
    driver.dry(True)
    with (
        mock.patch.object(torch_private, "current_stream", return_value=0),
        mock.patch.object(cuda, "_upload", lambda table, device: table),
    ):
        yield driver
    driver.put_all(-1)
    _C.bind({**torch_private.for_recorder(), "parts": parts})


def calls_of(run: Callable[[], object]) -> int:
    """Return how many functions, Python's and compiled ones, a call goes through."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def measure(rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the records: of one call, and of 1 000 and 10 000 tensors."""
    one = torch.empty(1)
    on_cpu = alternate({"torch": lambda: torch.nn.init.normal_(one)}, rounds=rounds, repeat=10_000)
    with stand_in() as driver:
        ours = alternate({"fastinit": lambda: init.normal_(one)}, rounds=rounds, repeat=10_000)
        yield {
            "record": "call",
            "calls": calls_of(lambda: init.normal_(one)),
            "us": {name: 1e6 * times.median for name, times in {**on_cpu, **ours}.items()},
        }
        for count in (1000, 10_000):
            yield many(count, driver, rounds)


def many(count: int, driver: Any, rounds: int) -> dict[str, Any]:
    """Return the record of a model of many tensors."""
    model = Many(count)
    launches: list[float] = []
    launch = cuda._launch

    def timed(*arguments: Any) -> None:
        start = time.perf_counter()
        launch(*arguments)
        launches.append(time.perf_counter() - start)

    def again(name: str) -> None:
        model.is_init = False
        driver.forget()

    with mock.patch.object(cuda, "_launch", timed):
        times = alternate({"init_weights": model.init_weights}, rounds=rounds, before=again)
        assert len(driver.launches) == 1
    return {
        "record": "many",
        "tensors": count,
        "launches": len(driver.launches),
        "init_weights_ms": 1e3 * times["init_weights"].median,
        "pack_and_launch_ms": 1e3 * sorted(launches)[len(launches) // 2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    given = parser.parse_args()
    with results(given.output) as stream:
        emit({"record": "machine", **machine()}, stream)
        for record in measure(given.rounds):
            emit(record, stream)


if __name__ == "__main__":
    main()
