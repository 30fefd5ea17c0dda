"""Brown's dieharder (https://webhome.phy.duke.edu/~rgb/General/dieharder.php), fed through its
standard input."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from quality.report import Section
from quality.samples import SEED, Source, sources

# Number of the test and of its p-values: the costly ones get fewer than the customary hundred.
# Left out: what dieharder itself calls suspect (5, 6, 7, 14).
BATTERY = (
    (0, 100),
    (1, 100),
    (2, 50),
    (3, 100),
    (4, 100),
    (8, 100),
    (9, 100),
    (10, 100),
    (11, 100),
    (12, 100),
    (13, 100),
    (15, 100),
    (16, 100),
    (17, 10),
    (100, 100),
    (101, 100),
    (102, 50),
)
CHUNK = 1 << 18
APART = 1 << 36  # words from one test's beginning to the next one's


@dataclass(frozen=True)
class Assessment:
    """A line of dieharder's table."""

    test: str
    p: float
    verdict: str  # PASSED, WEAK or FAILED


def assess(source: Source, test: int, samples: int) -> list[Assessment]:
    """Runs one test on words of its own."""
    command = ["dieharder", "-g", "200", "-d", str(test), "-p", str(samples)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    start = test * APART
    try:
        while True:
            process.stdin.write(source.words(start, CHUNK).tobytes())
            start += CHUNK
    except BrokenPipeError:  # it has seen enough
        pass
    # What it prints is far less than a pipe holds, so it never waited for a reader.
    lines = process.stdout.read().decode().splitlines()
    process.wait()
    found = []
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[-1] in ("PASSED", "WEAK", "FAILED"):
            found.append(Assessment(f"{cells[0]} {cells[1]}", float(cells[4]), cells[-1]))
    return found


def report(section: Section, quick: bool) -> None:
    """Adds dieharder's assessments to the section. FAILED fails; WEAK is run again with another
    seed and must pass there.

    By its thresholds one p-value in a hundred is WEAK, but dieharder's lean towards 1: of 155 from
    tests 100 and 102, 6 are above 0.995 for NumPy's PCG64, and as many for this generator.
    """
    if shutil.which("dieharder") is None:
        section.text("dieharder is not installed (Debian: `apt-get install dieharder`): skipped.")
        return
    battery = [(0, 20), (2, 5), (15, 20), (100, 20)] if quick else BATTERY
    tasks = [(which, *test) for which in range(len(sources())) for test in battery]
    tasks.sort(key=lambda task: task[1] != 17)  # the longest first, for two workers to end together

    def one(task: tuple[int, int, int]) -> list[Assessment]:
        which, test, samples = task
        return assess(sources()[which], test, samples)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, tasks))
    counts = [Counter[str]() for _ in sources()]
    again: list[str] = []
    for (which, test, samples), assessments in zip(tasks, found, strict=True):
        source = sources()[which]
        section.require(bool(assessments), f"dieharder -d {test} said nothing on {source.name}")
        counts[which].update(assessment.verdict for assessment in assessments)
        for assessment in assessments:
            what = f"{assessment.test} on {source.name} (p = {assessment.p:.6f})"
            section.require(assessment.verdict != "FAILED", f"dieharder: {what}")
            if assessment.verdict == "WEAK":
                second = assess(sources(SEED + 10_000)[which], test, samples)
                repeated = next(a for a in second if a.test == assessment.test)
                section.require(repeated.verdict == "PASSED", f"dieharder: {what}, twice")
                again.append(f"{what}: with another seed {repeated.verdict}, p = {repeated.p:.6f}")
    numbers = ", ".join(str(test) for test, _ in battery)
    section.text(f"dieharder's tests {numbers}, on the words through its standard input:")
    section.table(
        ["", "PASSED", "WEAK", "FAILED"],
        [
            [source.name, *(str(count[verdict]) for verdict in ("PASSED", "WEAK", "FAILED"))]
            for source, count in zip(sources(), counts, strict=True)
        ],
    )
    section.text("WEAK, and run again: " + ("; ".join(again) if again else "none") + ".")
