"""Filling memory that nobody has touched: with huge pages, as fastinit asks for, and without.

    python -m bench.cold                # 4 GiB
    python -m bench.cold --gib 1 --rounds 7

Both competitors fill a freshly allocated tensor on all threads by the same call; for the second one
huge pages are forbidden to the process.

A virtual machine's host takes large blocks of freed memory back, and giving them again costs many
times what is measured here. So twice the memory is touched once, and every second huge page of it
freed: what the kernel then hands out to either competitor is backed, and never merges into a block
that the host would want.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import sys
from collections.abc import Sequence
from typing import Any

import torch

import fastinit
from bench.lib.timing import Elsewhere, alternate, describe_machine, emit, machine, results

_PR_SET_THP_DISABLE = 41
_HUGE_PAGE = 1 << 21
_libc = ctypes.CDLL(None, use_errno=True)


def hold_every_second_page(nbytes: int) -> mmap.mmap:
    """Frees `nbytes` as huge pages between others, which the result holds on to."""
    memory = mmap.mmap(-1, 2 * nbytes + 2 * _HUGE_PAGE)
    memory.madvise(mmap.MADV_HUGEPAGE)
    view = (ctypes.c_char * len(memory)).from_buffer(memory)
    start = -ctypes.addressof(view) % _HUGE_PAGE
    ctypes.memset(view, 1, len(memory))
    for page in range(start, start + 2 * nbytes, 2 * _HUGE_PAGE):
        memory.madvise(mmap.MADV_DONTNEED, page, _HUGE_PAGE)
    return memory


def measure(gib: float, rounds: int) -> dict[str, Any]:
    """The JSON record; `ratio` is the time without huge pages over the time with them."""
    elements = int(gib * 2**30) // 4
    fresh: list[torch.Tensor] = []
    held = hold_every_second_page(elements * 4 + 64 * _HUGE_PAGE)

    def before(name: str) -> None:
        fresh.clear()
        if _libc.prctl(_PR_SET_THP_DISABLE, int(name == "small pages"), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_THP_DISABLE)")
        fresh.append(torch.empty(elements))

    def fill() -> None:
        fastinit.init.uniform_(fresh[0], -0.1, 0.1)

    competitors = {"huge pages": fill, "small pages": fill}
    try:
        alternate(competitors, rounds=2, before=before)  # until the kernel's free lists settle
        elsewhere = Elsewhere()
        times = alternate(competitors, rounds=rounds, before=before)
    finally:
        _libc.prctl(_PR_SET_THP_DISABLE, 0, 0, 0, 0)
        del held
    huge, small = times["huge pages"], times["small pages"]
    return {
        "record": "cold",
        "bytes": elements * 4,
        "threads": torch.get_num_threads(),
        "ratio": small.over(huge),
        "ratio_of_best": min(small.seconds) / min(huge.seconds),
        "busy_elsewhere": elsewhere.share(),
        "competitors": {name: times[name].summary() for name in times},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cold", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--gib", type=float, nargs="+", default=[4.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    arguments = parser.parse_args(argv)
    if not sys.platform.startswith("linux"):
        parser.error("huge pages are asked for on Linux only")
    with results(arguments.output) as stream:
        here = machine()
        emit({"record": "machine", **here}, stream)
        print(describe_machine(here), file=sys.stderr)
        for gib in arguments.gib:
            record = measure(gib, arguments.rounds)
            emit(record, stream)
            for name, result in record["competitors"].items():
                print(
                    f"{gib:6.2f} GiB {name:12}{result['median_s']:8.3f} s "
                    f"({result['min_s']:.3f} .. {result['max_s']:.3f})",
                    file=sys.stderr,
                )
            print(
                f"ratio {record['ratio']:.1f}, of the best {record['ratio_of_best']:.1f}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
