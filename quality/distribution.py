"""Distribution: samples of every law and dtype against the exact law, rounded to the dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy import special

from fastinit import _C
from fastinit.kernels.streams import stream_of
from quality.goodness import (
    ALPHA,
    Family,
    binned_chi_square,
    kolmogorov_smirnov,
    normal_p,
    ordered_sample,
    poisson_p,
)
from quality.laws import NARROWEST, Law, bins, rounded_moment
from quality.report import Section
from quality.samples import draw, name_of

TITLE = "Distribution"
INF = math.inf
BINS = 1 << 16

F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64
DTYPES = (F32, BF16, F16, F64)


def _truncated(name: str, *parameters: float) -> Law:
    return Law(name, _C.TRUNC_NORMAL, parameters)


LAWS = (
    Law("uniform(0, 1)", _C.UNIFORM, (0.0, 1.0)),
    Law("uniform(-0.036, 0.036)", _C.UNIFORM, (-0.036, 0.036)),
    Law("uniform(-1, 3)", _C.UNIFORM, (-1.0, 3.0)),
    Law("normal(0, 1)", _C.NORMAL, (0.0, 1.0)),
    Law("normal(0.01, 0.02)", _C.NORMAL, (0.01, 0.02)),
    _truncated("truncated, std 0.02, [-0.04, 0.04]", 0.0, 0.02, -0.04, 0.04),
    _truncated("truncated, std 0.02, [-2, 2]", 0.0, 0.02, -2.0, 2.0),
    _truncated("truncated [-0.1, 0.1]", 0.0, 1.0, -0.1, 0.1),
    _truncated("truncated, mean 0.5, std 2, [0, 4]", 0.5, 2.0, 0.0, 4.0),
    _truncated("truncated [-inf, 0.5]", 0.0, 1.0, -INF, 0.5),
    _truncated("truncated [3, inf]", 0.0, 1.0, 3.0, INF),
    _truncated("truncated [2, 4]", 0.0, 1.0, 2.0, 4.0),
    _truncated("truncated [5, 6]", 0.0, 1.0, 5.0, 6.0),
    _truncated("truncated [-10, 10]", 0.0, 1.0, -10.0, 10.0),
)
MOMENTS = (LAWS[0], LAWS[3], _truncated("truncated [-2, 2]", 0.0, 1.0, -2.0, 2.0))


def fit(law: Law, dtype: torch.dtype, n: int) -> tuple[float, float]:
    """p-values of Kolmogorov and Smirnov's test and of chi-square in 2^16 bins."""
    # A stream of its own for each: one unlucky sequence of words shall not appear 56 times.
    stream = stream_of(f"{law.name} {name_of(dtype)}")
    ordered = ordered_sample(draw(law.kind, dtype, law.parameters, n, stream=stream))
    chi = binned_chi_square(ordered, bins(law, dtype, BINS))
    return kolmogorov_smirnov(ordered, law, dtype), chi


def moments(law: Law, dtype: torch.dtype, n: int) -> list[float]:
    """z-scores of the first four moments about zero."""
    chunk = 1 << 18
    stream = stream_of(f"moments of {law.name} {name_of(dtype)}")
    sums = np.zeros(4)
    for start in range(0, n, chunk):
        values = draw(
            law.kind, dtype, law.parameters, min(chunk, n - start), stream=stream, start=start
        )
        x = values.double().numpy()
        square = x * x
        sums += (x.sum(), square.sum(), square @ x, square @ square)
    exact = [rounded_moment(law, dtype, k) for k in range(9)]
    return [
        float((sums[k - 1] / n - exact[k]) / math.sqrt((exact[2 * k] - exact[k] ** 2) / n))
        for k in range(1, 5)
    ]


def tail_counts(n: int) -> dict[int, int]:
    """How many of n fp32 normals lie beyond 4, 5 and 6 standard deviations."""
    chunk = 1 << 20

    def part(start: int) -> list[int]:
        x = draw(_C.NORMAL, F32, (0.0, 1.0), chunk, stream=stream_of("tails"), start=start).abs_()
        far = x[x > 4].numpy()
        return [int(np.count_nonzero(far > sigma)) for sigma in (4, 5, 6)]

    with ThreadPoolExecutor(2) as pool:
        counts = np.sum(list(pool.map(part, range(0, n, chunk))), axis=0)
    return dict(zip((4, 5, 6), counts.tolist(), strict=True))


def _each(laws: Sequence[Law]) -> Iterator[tuple[Law, torch.dtype]]:
    return ((law, dtype) for law in laws for dtype in DTYPES)


def run(quick: bool) -> Section:
    """The section of the report."""
    section, family = Section(TITLE), Family()
    sample = 10**6 if quick else 10**7
    many = 1 << (22 if quick else 30)
    normals = 1 << (26 if quick else 32)
    fewest = min(len(bins(law, F32, BINS).probability) for law in LAWS)
    rows: list[list[str]] = []
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda case: fit(*case, sample), _each(LAWS)))
        sums = list(pool.map(lambda case: moments(*case, many), _each(MOMENTS)))
    for (law, dtype), (ks, chi) in zip(_each(LAWS), found, strict=True):
        if dtype == DTYPES[0]:
            rows.append([law.name])
        for name, p in (("KS", ks), ("chi-square", chi)):
            family.add(f"{name}, {law.name}, {name_of(dtype)}", p)
        rows[-1].append(f"{ks:.3f}, {chi:.3f}")
    section.text(
        f"p-values of Kolmogorov and Smirnov's test and of chi-square, {sample:,} values each, "
        f"against the law as rounded to the dtype. Chi-square has {BINS} equally probable bins; in "
        f"fp32 fewer, down to 2^{fewest.bit_length() - 1}, where they would be narrower than "
        f"{NARROWEST} ulp, and in 16 bits as many as there are values to tell apart."
    )
    section.table(["KS, chi-square", *map(name_of, DTYPES)], rows)
    rows = []
    for (law, dtype), scores in zip(_each(MOMENTS), sums, strict=True):
        for k, z in enumerate(scores, 1):
            family.add(f"moment {k}, {law.name}, {name_of(dtype)}", normal_p(z))
        rows.append([law.name, name_of(dtype), *(f"{z:+.2f}" for z in scores)])
    section.text(f"Moments of {many:,} values, as deviations in standard errors:")
    section.table(["", "dtype", "E x", "E x^2", "E x^3", "E x^4"], rows)
    rows = []
    for sigma, count in tail_counts(normals).items():
        expected = normals * 2.0 * float(special.ndtr(-sigma))
        p = family.add(f"beyond {sigma} sigma", poisson_p(count, expected))
        z = (count - expected) / math.sqrt(expected)
        rows.append([f"{sigma}", f"{count:,}", f"{expected:,.1f}", f"{z:+.2f}", f"{p:.3f}"])
    section.text(f"Of {normals:,} normals in fp32, this many lie beyond so many sigma:")
    section.table(["sigma", "seen", "expected", "z", "p"], rows)
    conclude(section, family)
    return section


def conclude(section: Section, family: Family) -> None:
    """The criterion, and what came nearest to it."""
    spread = family.add("spread of the other p-values", family.uniformity())
    name, p = family.smallest
    section.failures += family.failures()
    section.text(
        f"{len(family.p)} tests; the smallest p-value is {p:.1e} ({name}), and the criterion is "
        f"that none is below {ALPHA:g} / {len(family.p)} = {family.threshold:.1e}. All p-values "
        f"together are spread evenly with p = {spread:.2f}."
    )
