"""`python -m quality.mutants`: which mistakes in the code the tests find; writes MUTANTS.md.

Kernels: each mistake of quality/mutations.py in a copy of csrc/, compiled, under the tests of
kernels and stream. Planner: a sample, by a seed, of the mistakes that quality/mutator.py can make
in fastinit/plan and fastinit/capture, under those rooms' tests. A mistake that no test finds has a
reason in quality/survivors.ini, or the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from quality.mutations import MUTATIONS
from quality.mutator import mutations
from quality.reasons import explained
from quality.report import Section

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "quality" / "MUTANTS.md"
REASONS = ROOT / "quality" / "survivors.ini"
FOLDER = ROOT / "build" / "mutants"
TREE = FOLDER / "tree"
OUTCOMES = FOLDER / "outcomes.json"

# Those first that find most. Not: what compiles programs of its own, starts many processes, or
# waits for seconds.
KERNEL_TESTS = [
    "tests/kernels/test_fill.py", "tests/stream/test_oracle.py", "tests/stream/test_pieces.py",
    "tests/kernels/test_layout.py",
    "tests/kernels/test_table_validation.py", "tests/stream/test_bounds.py",
    "tests/stream/test_distributions.py", "tests/stream/test_stream_text.py",
    "tests/kernels/test_distributions_table.py", "tests/kernels/test_supported.py",
]  # fmt: skip
PLAN_TESTS = ["tests/plan", "tests/capture"]
LEFT_OUT = ["tests/plan/test_sharded.py", *(f"tests/capture/test_{name}.py" for name in
            ("interrupts", "operators"))]  # fmt: skip
PLAN_FILES = ("fastinit/plan", "fastinit/capture")
# For processes and meshes, or GPUs; their tests are left out here, or need a device.
NOT_HERE = {"sharded.py", "ranks.py"}
LIMIT = 900  # seconds that the tests of one mutant may take; one that takes longer counts as found
MEMORY = 64 << 30  # address space, bytes

HEADER = """# Which mistakes the tests find

Written by `make mutants`. A mutant is the code with one mistake put into it; it is found if a test
fails, if the build fails, or if the tests do not end. Kernels: the mistakes of
[mutations.py](mutations.py), chosen by hand, each compiled and run by the tests of kernels and
stream. Planner: a sample, by seed {seed}, of all mistakes that [mutator.py](mutator.py) can make in
fastinit/plan and fastinit/capture (comparisons flipped, a `not` dropped, `and` and `or` exchanged,
numbers one more, calls removed, nothing returned), run by the tests of those rooms. Reasons are
kept in [survivors.ini](survivors.ini).
"""


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    environment = {**os.environ, "FASTINIT_CUDA": "0", "CXXFLAGS": "-O1", **more}
    return subprocess.run(
        [sys.executable, *command], cwd=TREE, capture_output=True, text=True, timeout=LIMIT,
        env=environment, preexec_fn=limit,
    )  # fmt: skip


def build() -> bool:
    return run(["setup.py", "-q", "build_ext", "--inplace"]).returncode == 0


def tests(paths: list[str], *more: str) -> str:
    """The first test that fails, or "" where all pass."""
    command = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    try:
        done = run([*command, *paths, *more])
    except subprocess.TimeoutExpired:
        return f"does not end in {LIMIT} s"
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" ", 1)[1].split(" - ")[0] if failed else f"exit {done.returncode}"


def kernel_tests() -> str:
    return tests(KERNEL_TESTS, "-k", "not cuda")


def plan_tests() -> str:
    return tests(PLAN_TESTS, *(f"--ignore={path}" for path in LEFT_OUT))


Mutant = tuple[str, Path, bytes, Callable[[], str]]


def kernels() -> Iterator[Mutant]:
    for name, file, old, new in MUTATIONS:
        path = Path("csrc", file)
        source = (ROOT / path).read_bytes()
        if source.count(old.encode()) != 1:
            sys.exit(f"{path} does not have the text of {name!r} once")
        changed = source.replace(old.encode(), new.encode())
        yield name, path, changed, lambda: kernel_tests() if build() else "does not build"


def planner(count: int, seed: int) -> list[Mutant]:
    everything = []
    for folder in PLAN_FILES:
        for file in sorted((ROOT / folder).glob("*.py")):
            if file.name in NOT_HERE:
                continue
            source, path = file.read_bytes(), file.relative_to(ROOT)
            for n, m in enumerate(mutations(source)):
                name = f"{path} {m.function}: {m.what}"
                everything.append((name, n, path, m.applied(source)))
    chosen = random.Random(seed).sample(everything, min(count, len(everything)))
    return [(name, path, changed, plan_tests) for name, _, path, changed in sorted(chosen)]


def copy_tree() -> None:
    TREE.mkdir(parents=True, exist_ok=True)
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    for name in names.splitlines():
        source, target = ROOT / name, TREE / name
        if not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.write_bytes(source.read_bytes())


def try_all(section: str, mutants: list[Mutant], outcomes: dict[str, str], deadline: float) -> None:
    """Adds who found each mutant; of those known from an earlier run, that is kept."""
    for name, path, changed, find in mutants:
        key = f"{section}: {name}"
        if key in outcomes:
            continue
        if time.monotonic() > deadline:
            print("out of time: run again to go on", file=sys.stderr)
            return
        began = time.monotonic()
        (TREE / path).write_bytes(changed)
        try:
            outcomes[key] = find()
        finally:
            (TREE / path).write_bytes((ROOT / path).read_bytes())
        OUTCOMES.write_text(json.dumps(outcomes, indent=1))
        print(
            f"{time.monotonic() - began:4.0f} s  {key}: {outcomes[key] or 'SURVIVED'}", flush=True
        )


def render(outcomes: dict[str, str], seed: int) -> list[str]:
    """Writes the report; the survivors without a reason."""
    section = Section("")
    tried = Counter(key.split(":")[0] for key in outcomes)
    found = Counter(key.split(":")[0] for key, by in outcomes.items() if by)
    rows = [[s, str(tried[s]), str(found[s]), str(tried[s] - found[s])] for s in tried]
    section.table(["mutants of", "tried", "found", "survived"], rows)
    by_reason, without = explained(REASONS, [key for key, by in outcomes.items() if not by])
    section.text("## Survivors")
    listed = [*by_reason.items(), *([("**none known**", without)] if without else [])]
    section.table(["why no test finds it", "mutants"], [[r, "; ".join(p)] for r, p in listed])
    section.text("## Found, and by which test first")
    killers = [[key, f"`{by.rpartition('/')[2]}`"] for key, by in outcomes.items() if by]
    clean = [[cell.replace("|", "\\|") for cell in row] for row in killers]
    section.table(["mutant", "test"], clean)
    header = HEADER.format(seed=seed).rstrip()
    REPORT.write_text("\n\n".join([header, *section.parts]) + "\n", encoding="utf-8")
    return without


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m quality.mutants", description=__doc__)
    parser.add_argument("sections", nargs="*", choices=["kernels", "planner", []])
    parser.add_argument("--count", type=int, default=24, help="mutants of the planner")
    parser.add_argument("--seed", type=int, default=1, help="of their sample")
    parser.add_argument("--minutes", type=float, default=90, help="begin none after them")
    parser.add_argument("--again", action="store_true", help="forget outcomes of earlier runs")
    given = parser.parse_args()
    wanted = given.sections or ["kernels", "planner"]
    deadline = time.monotonic() + 60 * given.minutes
    copy_tree()
    known = OUTCOMES.exists() and not given.again
    outcomes: dict[str, str] = json.loads(OUTCOMES.read_text()) if known else {}
    if not build():
        sys.exit("the code does not build as it is")
    for section, make, find in (
        ("kernels", lambda: list(kernels()), kernel_tests),
        ("planner", lambda: planner(given.count, given.seed), plan_tests),
    ):
        if section not in wanted:
            continue
        if failed := find():
            sys.exit(f"the tests of {section} fail without a mutant: {failed}")
        try_all(section, make(), outcomes, deadline)
        build()
    without = render(outcomes, given.seed)
    for key in without:
        print(f"survived, and has no reason in {REASONS.name}: {key}", file=sys.stderr)
    return int(bool(without))


if __name__ == "__main__":
    sys.exit(main())
