"""How things are timed here: on warm memory, in alternation, with the spread beside the median.

A shared machine drifts by tens of percent within a minute. Competitors therefore take turns within
one run, the order rotating from round to round, and a ratio is the median of the ratios round by
round, never one run's time over another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

import fastinit
from fastinit import _C

ISA_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512dq",
    "avx512bw",
    "avx512vl",
    "avx512_bf16",
    "asimd",
    "sve",
)


def machine() -> dict[str, Any]:
    """What a reader needs to place a number: processor, memory, versions, threads, lanes."""
    processor = _proc_fields("/proc/cpuinfo")
    flags = processor.get("flags", processor.get("Features", "")).split()
    memory_kib = int(_proc_fields("/proc/meminfo").get("MemTotal", "0 kB").split()[0])
    return {
        "cpu": processor.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "isa_flags": [flag for flag in ISA_FLAGS if flag in flags],
        "memory_gib": round(memory_kib / 2**20, 1),
        "huge_pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "fastinit": fastinit.__version__,
        "fastinit_isa": _C.default_isa(),
    }


def describe_machine(machine: Mapping[str, Any]) -> str:
    """The line about `machine()` that goes above results for a person."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"torch {machine['torch']} on {machine['threads']} threads; "
        f"fastinit {machine['fastinit']}, {machine['fastinit_isa']} lanes"
    )


def _proc_fields(path: str) -> dict[str, str]:
    """The `key : value` lines of a /proc file, the first of each key; empty where it is missing."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            key, separator, value = line.partition(":")
            if separator:
                fields.setdefault(key.strip(), value.strip())
    return fields


def _chosen(path: str) -> str | None:
    """The bracketed word of a sysfs choice such as `always [madvise] never`."""
    with contextlib.suppress(OSError):
        return Path(path).read_text().partition("[")[2].partition("]")[0]
    return None


def warm(nbytes: int) -> None:
    """Touches and frees `nbytes`, so that a virtual machine's host has backed the pages."""
    torch.empty(nbytes, dtype=torch.uint8).fill_(1)


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Runs a block with torch.set_num_threads(count), which fastinit follows."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Times:
    """Seconds of one competitor, one per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: Times) -> float:
        """How many times as long as `other` this took: the median of the rounds' ratios."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))

    def summary(self) -> dict[str, Any]:
        return {
            "median_s": self.median,
            "min_s": min(self.seconds),
            "max_s": max(self.seconds),
            "rounds": len(self.seconds),
        }


Clock = Callable[[Callable[[], object], int], float]
"""Runs something so many times and gives the seconds that one of them took."""


def wall_clock(run: Callable[[], object], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat


def alternate(
    competitors: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    repeat: int = 1,
    before: Callable[[str], None] | None = None,
    after: Callable[[str, float], None] | None = None,
    clock: Clock = wall_clock,
) -> dict[str, Times]:
    """Times the competitors in turn, `rounds` times over, starting each round with another one.

    `repeat` calls are timed together, for work too short for the clock; the seconds are those of
    one call. `before(name)` and `after(name, seconds)` run outside the timed part. Nothing is run
    unmeasured: whoever wants a warm-up asks for one more round and looks at the median.
    """
    names = list(competitors)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            run = competitors[name]
            if before is not None:
                before(name)
            elapsed = clock(run, repeat)
            seconds[name].append(elapsed)
            if after is not None:
                after(name, elapsed)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


class PeakMemory:
    """By how much the resident memory of this process grew at most since `start`.

    Uses the kernel's high-water mark, which `start` resets; where that cannot be done (not Linux,
    or a locked-down /proc) `extra_bytes` answers None.
    """

    def __init__(self) -> None:
        self._start: int | None = None

    def start(self) -> None:
        self._start = None
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            self._start = _status_bytes("VmRSS")

    def extra_bytes(self) -> int | None:
        if self._start is None:
            return None
        return max(_status_bytes("VmHWM") - self._start, 0)


def _status_bytes(field: str) -> int:
    return int(_proc_fields("/proc/self/status")[field].split()[0]) * 1024


class Elsewhere:
    """How much of the machine other processes were using since this was made.

    Threads that wait for each other suffer out of all proportion when a core is taken away: a
    result with a share of more than a few percent says nothing about the competitors.
    """

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._busy = _busy_seconds()

    def share(self) -> float | None:
        """From 0 (ours alone, or idle) to 1 (all cores taken).

        None where the system does not say, or within half a second: it counts in hundredths.
        """
        wall = time.perf_counter() - self._wall
        busy = _busy_seconds()
        if busy is None or self._busy is None or wall < 0.5:
            return None
        return min(max((busy - self._busy) / wall / (os.cpu_count() or 1), 0.0), 1.0)


def _busy_seconds() -> float | None:
    """Processor seconds that all other processes have used since the system started."""
    with contextlib.suppress(OSError):
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
        ticks = user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()
    return None


def describe_share(share: float | None) -> str:
    """A warning to put behind a result when the machine was not ours, else nothing."""
    return f"   machine {share:.0%} busy elsewhere" if share is not None and share > 0.05 else ""


@contextlib.contextmanager
def results(path: str | None) -> Iterator[TextIO]:
    """Opens where JSON lines go: a file, which is replaced, or standard output for None."""
    if path is None:
        yield sys.stdout
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        yield stream


def emit(record: Mapping[str, Any], stream: TextIO) -> None:
    """Writes one JSON line at once, so that what an interrupted run has measured is kept."""
    print(json.dumps(record), file=stream, flush=True)
