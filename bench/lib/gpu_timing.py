"""What measurements on a GPU share: clocks, goals, and the comparison with the CPU's values."""

from __future__ import annotations

import inspect
import operator
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.lib.rules import Rule
from bench.lib.timing import Clock
from fastinit import init
from fastinit.kernels import distributions, table
from fastinit.kernels.streams import stream_of
from fastinit.plan import seeds

HEAD_START = 100_000_000  # cycles that the GPU waits: some 50 ms, longer than Python needs
COMPARED = 1 << 16  # elements at either end of a tensor that are compared with the CPU's


class Difference(RuntimeError):
    """Values that are not the CPU's."""


class Goal(NamedTuple):
    """What a figure of a record is to reach: at least the bound, or at most."""

    figure: str
    bound: float
    at_most: bool = False

    def judge(self, figures: Mapping[str, float]) -> dict[str, Any]:
        """The goal and whether it was met, for JSON."""
        reached = operator.le if self.at_most else operator.ge
        return {**self._asdict(), "met": reached(figures[self.figure], self.bound)}


def device_clock(run: Callable[[], object], repeat: int) -> float:
    """The GPU's time, by events.

    A kernel that only waits goes first: when the GPU comes to the work all of it has been queued,
    and what Python needed for that is not in the time (unless the work itself waits for the GPU).
    """
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(HEAD_START)
    start.record()
    for _ in range(repeat):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeat


def done_clock(run: Callable[[], object], repeat: int) -> float:
    """Wall-clock time until the GPU is done, Python's included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeat


def call_clock(run: Callable[[], object], repeat: int) -> float:
    """Wall-clock time until the call returns, the GPU being idle before."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    seconds = (time.perf_counter() - start) / repeat
    torch.cuda.synchronize()
    return seconds


CLOCKS: dict[str, Clock] = {"device": device_clock, "wall": done_clock, "call": call_clock}


def cpu_values(
    rule: Rule, dtype: torch.dtype, seed: int, name: str, start: int, count: int
) -> Tensor:
    """Elements [start, start + count) of what the rule puts into the stream of this name."""
    call = inspect.signature(getattr(init, rule.function)).bind(None, **rule.arguments)
    call.apply_defaults()
    given = tuple(v for name, v in call.arguments.items() if name not in ("tensor", "generator"))
    kind = distributions.distribution_of(rule.function.removesuffix("_")).kind
    parameters = distributions.valid_parameters(dtype, kind, given)
    assert parameters is not None
    values = torch.empty(count, dtype=dtype)
    row = table.row(values, kind, parameters, seed, stream_of(name), start, count)
    table.execute(None, [row])
    return values


def require_equal(rule: Rule, tensor: Tensor, seed: int, name: str) -> None:
    """Raises Difference where the ends of a tensor are not what the CPU writes."""
    flat = tensor.detach().view(-1)
    count = min(COMPARED, len(flat))
    for start in (0, len(flat) - count):
        expected = cpu_values(rule, tensor.dtype, seed, name, start, count)
        found = flat[start : start + count].cpu()
        if not torch.equal(found.view(torch.uint8), expected.view(torch.uint8)):
            raise Difference(f"{rule} in {tensor.dtype}, from element {start} on: not the CPU's")


def seeded(run: Callable[[], object]) -> int:
    """Runs something that draws one seed; returns it."""
    torch.manual_seed(1)
    run()
    torch.manual_seed(1)
    return seeds.draw_seed()
