"""What importing fastinit costs, torch being there: in processes that begin.

    python -m bench.imports
    python -m bench.imports --rounds 9 --output bench/results/imports.jsonl

The byte code is compiled before, as an installation does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from bench.lib.timing import emit, machine, results

CODE = """
import time
import torch
start = time.perf_counter()
import fastinit
print(time.perf_counter() - start)
"""


def measure(rounds: int) -> dict[str, object]:
    """Return the JSON record."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-c", CODE]
        seconds = [
            float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
            for _ in range(rounds + 1)
        ][1:]  # the first one compiles
    return {
        "record": "import",
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    given = parser.parse_args()
    with results(given.output) as stream:
        emit({"record": "machine", **machine()}, stream)
        emit(measure(given.rounds), stream)


if __name__ == "__main__":
    main()
