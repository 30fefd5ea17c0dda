"""This checkout against another one, an earlier commit say: is anything slower?

    git worktree add /tmp/before COMMIT     (and build it: make install, or copy fastinit/_C*.so)
    python -m bench.against /tmp/before bench.models --cases resnet small-tensors
    python -m bench.against /tmp/before bench.build --cases gpt2-large --rounds 3

The command runs in a process of its own for each checkout and turn, the order rotating. What
`fastinit` (or `build`) took is divided by what torch (or stock construction) took in the same
process, because a shared machine is not as fast in one process as in the next. Printed are the
medians of that over the turns, and of its ratio between the checkouts, with the spread: above 1
this checkout is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1]
PAIRS = (("fastinit", "torch"), ("build", "stock"))


def shares(checkout: Path, command: list[str]) -> dict[str, float]:
    """Our time over torch's by case, of one run of a command of bench/ in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.jsonl"
        subprocess.run(
            [sys.executable, "-m", *command, "--output", str(output)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        records = [json.loads(line) for line in output.read_text().splitlines()]
    found = {}
    for record in records:
        times = {name: r["median_s"] for name, r in record.get("competitors", {}).items()}
        for ours, theirs in PAIRS:
            if ours in times:
                found[record["case"]] = times[ours] / times[theirs]
    return found


def main() -> None:
    """Run, and print a line for each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("other", type=Path, help="the other checkout, built")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="bench.models or bench.build")
    parser.add_argument("--turns", type=int, default=5)
    chosen = parser.parse_args()
    checkouts = {"this": HERE, "other": chosen.other.resolve()}
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(chosen.turns):
        for name in sorted(checkouts, reverse=turn % 2 == 0):
            for case, share in shares(checkouts[name], chosen.command).items():
                found.setdefault(case, {}).setdefault(name, []).append(share)
    for case, of in found.items():
        ratios = [other / this for other, this in zip(of["other"], of["this"], strict=True)]
        there, here = statistics.median(of["other"]), statistics.median(of["this"])
        print(
            f"{case}: {there:.3f} of torch's time there, {here:.3f} here: "
            f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
