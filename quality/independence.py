"""Independence: of words of a block, of neighbouring streams and seeds, and of what is interleaved
from many of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinit.kernels.streams import stream_of
from quality import bits, dieharder
from quality.distribution import conclude
from quality.goodness import Family, correlation_p, equal_chi_square, normal_p
from quality.report import Section
from quality.samples import SEED, STREAM, U32, normals, sources, words

TITLE = "Independence"


@dataclass(frozen=True)
class Sample:
    """Words, and the normals of the same places."""

    words: U32
    normals: NDArray[np.float32]

    def part(self, begin: int, end: int | None, step: int = 1) -> Sample:
        return Sample(self.words[begin:end:step], self.normals[begin:end:step])


Pair = tuple[str, str, Sample, Sample]


def compare(left: Sample, right: Sample) -> dict[str, float]:
    """p-values of everything that two independent samples must not have in common."""
    x, y = (sample.normals.astype(np.float64) for sample in (left, right))
    result = {
        "words": correlation_p(left.words.astype(np.float64), right.words.astype(np.float64)),
        "normals": correlation_p(x, y),
        "squares": correlation_p(x * x, y * y),
        "square and normal": correlation_p(x * x, y),
        "normal and square": correlation_p(x, y * y),
    }
    for name, shift in (("high bytes", 24), ("low bytes", 0)):
        cells = (left.words >> np.uint32(shift) & np.uint32(255)) << np.uint32(8)
        cells |= right.words >> np.uint32(shift) & np.uint32(255)
        result[name] = equal_chi_square(np.bincount(cells, minlength=1 << 16))
    differing = bits.ones_per_position(left.words ^ right.words)
    result["bits that differ"] = normal_p(bits.z_of(int(differing.sum()), 32 * len(left.words)))
    return result


def _sample(n: int, seed: int = SEED, stream: int = STREAM) -> Sample:
    return Sample(words(n, seed, stream), normals(n, seed, stream))


def pairs(n: int) -> Iterator[Pair]:
    """Group, name, and two samples of n (or a little fewer) each."""
    blocks = _sample(4 * n)
    for j, k in combinations(range(4), 2):
        yield "words of a block", f"{j} and {k}", blocks.part(j, None, 4), blocks.part(k, None, 4)
    base = blocks.part(0, n)
    for lag in (1, 2, 3, 4, 5, 8, 16, 64, 1024, 65536):
        yield "lags in a stream", f"{lag}", base.part(0, -lag), base.part(lag, None)
    for left, right in (
        *((f"layers.{k}.weight", f"layers.{k + 1}.weight") for k in range(8)),
        ("layers.1.weight", "layers.11.weight"),
        ("layers.1.weight", "layers.1.bias"),
        ("layers.1.weight", "layers.1.weight@1"),
    ):
        both = (_sample(n, stream=stream_of(name)) for name in (left, right))
        yield "neighbouring names", f"{left} and {right}", *both
    for bit in (0, 1, 31, 32, 63):
        other = _sample(n, stream=STREAM ^ 1 << bit)
        yield "streams a bit apart", f"bit {bit}", base, other
    for step in range(8):
        both = (_sample(n, seed=SEED + step + k) for k in (0, 1))
        yield "seeds s and s + 1", f"s = {SEED + step}", *both
    for bit in (1, 8, 31, 32, 63):
        other = _sample(n, seed=SEED ^ 1 << bit)
        yield "seeds a bit apart", f"bit {bit}", base, other
    for source in sources()[1:]:
        mixed = Sample(source.words(0, n), source.normals(0, n))
        for lag in (1, 2, 3, 32, 63, 64, 65, 128):
            yield f"lags in {source.name}", f"{lag}", mixed.part(0, -lag), mixed.part(lag, None)


def _judged(pair: Pair) -> tuple[str, str, dict[str, float]]:
    group, name, left, right = pair
    return group, name, compare(left, right)


def run(quick: bool) -> Section:
    """The section of the report."""
    section, family = Section(TITLE), Family()
    n = 1 << (18 if quick else 24)
    smallest: dict[str, list[float]] = {}
    for group, name, found in map(_judged, pairs(n)):
        for what, p in found.items():
            family.add(f"{what}, {group}, {name}", p)
            smallest.setdefault(group, []).append(p)
    section.text(
        f"Pairs of samples of 2^{n.bit_length() - 1} elements: correlations of the words, of the "
        "normals made of them, of their squares and of one with the other's square; chi-square of "
        "the 2^16 combinations of high bytes and of low bytes; and the number of bits that differ."
    )
    rows = [
        [group, f"{len(p)}", f"{min(p):.1e}", f"{min(1.0, min(p) * len(p)):.2f}"]
        for group, p in smallest.items()
    ]
    section.table(["", "tests", "smallest p", "times the number of tests"], rows)
    _bit_tests(section, family, quick)
    conclude(section, family)
    dieharder.report(section, quick)
    return section


def _bit_tests(section: Section, family: Family, quick: bool) -> None:
    def battery(task: tuple[Any, str]) -> float:
        source, name = task
        return bits.TESTS[name](source, quick)

    tasks = [(source, name) for name in bits.TESTS for source in sources()]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(battery, tasks))
    table: dict[str, list[str]] = {name: [name] for name in bits.TESTS}
    for (source, name), p in zip(tasks, found, strict=True):
        family.add(f"{name}, {source.name}", p)
        table[name].append(f"{p:.3f}")
    section.text("Tests of the bits of the raw words, p-values:")
    section.table(["", *(source.name for source in sources())], list(table.values()))
