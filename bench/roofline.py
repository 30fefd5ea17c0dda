"""What limits each kernel: instructions, cycles and bandwidth per element, as a Markdown table.

    python -m bench.roofline            # needs a C++ compiler and valgrind
    python -m bench.roofline --isas scalar avx2

Instructions are exact: callgrind counts fills of two lengths by the installed extension, and the
difference is the kernel's. Cycles are the best time of many on one core and a buffer in cache, by a
clock measured beside it. valgrind knows no AVX-512; for that ISA there are cycles only.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.lib.timing import alternate, describe_machine, emit, machine, results, use_threads
from fastinit import _C

KINDS = {
    "uniform": (_C.UNIFORM, (-0.1, 0.1, 0.0, 0.0)),
    "normal": (_C.NORMAL, (0.0, 0.02, 0.0, 0.0)),
    "trunc_normal": (_C.TRUNC_NORMAL, (0.0, 0.02, -0.04, 0.04)),
}
DTYPES = {
    "float32": (_C.FLOAT32, 4),
    "bfloat16": (_C.BFLOAT16, 2),
    "float16": (_C.FLOAT16, 2),
    "float64": (_C.FLOAT64, 8),
}
ELEMENTS = 1 << 15  # 128 KiB of fp32: in the second-level cache
COUNTED = (1 << 18, 5 << 18)

# Loads the extension without its package, and so without torch, which valgrind would crawl through.
CHILD = """
import ctypes, mmap, sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
loader = ExtensionFileLoader("_C", sys.argv[1])
native = module_from_spec(spec_from_loader("_C", loader))
loader.exec_module(native)
memory = mmap.mmap(-1, 1 << 24)
pointer = ctypes.addressof(ctypes.c_char.from_buffer(memory))
kind, dtype, elements = map(int, sys.argv[3:6])
parameters = tuple(map(float, sys.argv[6:10]))
native.fill([(kind, dtype, pointer, 1, 2, 0, elements, *parameters)], 1, sys.argv[2])
"""


def instructions(isa: str, distribution: str, dtype: str) -> float:
    """Instructions per element."""
    kind, parameters = KINDS[distribution]
    counts = []
    for elements in COUNTED:
        numbers = [kind, DTYPES[dtype][0], elements, *parameters]
        valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        python = [sys.executable, "-S", "-E", "-c", CHILD, _C.__file__, isa, *map(str, numbers)]
        environment = {"PYTHONHASHSEED": "0"}  # the same instructions but for the elements
        done = subprocess.run([*valgrind, *python], capture_output=True, text=True, env=environment)
        found = re.search(r"Collected : (\d+)", done.stderr)
        if done.returncode != 0 or found is None:
            raise RuntimeError(f"callgrind failed:\n{done.stderr}")
        counts.append(int(found[1]))
    return (counts[1] - counts[0]) / (COUNTED[1] - COUNTED[0])


def nanoseconds(isa: str, distribution: str, dtype: str, rounds: int = 400) -> float:
    """Per element: the best of many fills of a buffer in cache, on one thread."""
    kind, parameters = KINDS[distribution]
    code, size = DTYPES[dtype]
    memory = torch.empty(ELEMENTS * size, dtype=torch.uint8)
    row = (kind, code, memory.data_ptr(), 1, 2, 0, ELEMENTS, *parameters)
    times = alternate({"fill": lambda: _C.fill([row], 1, isa)}, rounds=rounds)["fill"]
    return min(times.seconds) / ELEMENTS * 1e9


def clock_ghz() -> float:
    """Of the processor, while it works on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "clock")
        source = str(Path(__file__).parent / "lib" / "clock.cpp")
        subprocess.run(["c++", "-std=c++17", "-O2", source, "-o", program], check=True)
        runs = [subprocess.run([program], capture_output=True, text=True) for _ in range(5)]
    return max(float(run.stdout) for run in runs)


def bandwidth() -> float:
    """GB/s of `fill_` on one core into memory: the roof, for a core that has it to itself."""
    tensor = torch.empty(1 << 26)
    with use_threads(1):
        times = alternate({"fill": partial(tensor.fill_, 1.0)}, rounds=8)["fill"]
    return tensor.numel() * tensor.element_size() / min(times.seconds) / 1e9


def measure(isas: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One record per lane type, distribution and dtype."""
    roof, ghz = bandwidth(), clock_ghz()
    for isa, distribution, dtype in product(isas, KINDS, DTYPES):
        ns = nanoseconds(isa, distribution, dtype)
        count = None if isa == "avx512" else instructions(isa, distribution, dtype)
        yield {
            "record": "roofline",
            "isa": isa,
            "distribution": distribution,
            "dtype": dtype,
            "instructions": count,
            "cycles": ns * ghz,
            "ghz": ghz,
            "melements_per_s": 1e3 / ns,
            "gb_per_s": DTYPES[dtype][1] / ns,
            "roof_gb_per_s": roof,
        }


HEAD = """| lanes | distribution | dtype | instructions | cycles | a cycle | M/s | GB/s | of roof |
|---|---|---|---|---|---|---|---|---|"""


def row(record: dict[str, Any]) -> str:
    """One line of the table."""
    count, cycles = record["instructions"], record["cycles"]
    return (
        f"| {record['isa']} | {record['distribution']} | {record['dtype']} "
        f"| {'-' if count is None else f'{count:.2f}'} | {cycles:.2f} "
        f"| {'-' if count is None else f'{count / cycles:.2f}'} "
        f"| {record['melements_per_s']:.0f} | {record['gb_per_s']:.1f} "
        f"| {record['gb_per_s'] / record['roof_gb_per_s']:.2f} |"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.roofline", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--isas", nargs="+", choices=_C.isas(), default=list(_C.isas()))
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    arguments = parser.parse_args(argv)
    with results(arguments.output) as stream:
        here = machine()
        emit({"record": "machine", **here}, stream)
        print(describe_machine(here), HEAD, sep="\n\n", file=sys.stderr)
        for record in measure(arguments.isas):
            emit(record, stream)
            print(row(record), file=sys.stderr)


if __name__ == "__main__":
    main()
