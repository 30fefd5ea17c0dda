"""Bounds: every one of the 2^32 words, in every dtype that has 32-bit words, in nasty places."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import torch

from fastinit import _C
from quality.evaluator import Function, extremes
from quality.report import Section
from quality.samples import CODES, name_of

TITLE = "Bounds"
INF = math.inf
ALL = 1 << 32

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
DTYPES = (F32, BF16, F16)

Cases = tuple[tuple[str, tuple[float, ...], tuple[torch.dtype, ...]], ...]

UNIFORM: Cases = (
    ("unit", (0.0, 1.0), DTYPES),
    ("bounds that no dtype holds", (-0.1, 0.1), DTYPES),
    ("the same, off centre", (0.1, 0.7), DTYPES),
    ("one step of bf16, eight of fp16", (1.0, 1.0078125), (BF16, F16)),
    ("three steps of fp32 wide", (1.0, 1.0 + 3 * 2.0**-23), DTYPES),
    ("two steps of fp32 wide, negative", (-1.0, -1.0 + 2.0**-23), DTYPES),
    ("the largest of fp16", (65503.0, 65504.0), DTYPES),
    ("over zero", (-1e-3, 1e3), DTYPES),
    ("subnormal in fp16", (-1e-6, 3e-6), DTYPES),
    ("subnormal in fp32 and bf16", (-1e-40, 2e-40), (F32, BF16)),
    ("width 0", (0.1, 0.1), DTYPES),
)
TRUNCATED: Cases = (
    ("two standard deviations", (0.0, 0.02, -0.04, 0.04), DTYPES),
    ("wide", (0.0, 1.0, -30.0, 30.0), DTYPES),
    ("far tail", (0.0, 1.0, 5.0, 6.0), DTYPES),
    ("far tail, negative, not representable", (0.0, 1.0, -8.1, -7.3), DTYPES),
    ("open", (0.0, 1.0, 0.1, INF), DTYPES),
    ("three steps of fp32 wide", (0.0, 1.0, 1.0, 1.0 + 3 * 2.0**-23), DTYPES),
    ("narrow, bounds that no dtype holds", (0.3, 0.7, 0.1, 0.1003), DTYPES),
    ("the largest of fp16", (65504.0, 0.5, 65503.0, 65504.0), DTYPES),
    ("subnormal in fp16", (0.0, 2e-6, -1e-6, 3e-6), DTYPES),
    ("subnormal in fp32 and bf16", (0.0, 1e-40, -1e-40, 2e-40), (F32, BF16)),
    ("width 0", (0.0, 1.0, 0.1, 0.1), DTYPES),
)


def represented(value: float, dtype: torch.dtype) -> float:
    """As the dtype holds it: by way of fp32, as every 16-bit value goes."""
    return float(torch.tensor(value, dtype=torch.float64).float().to(dtype))


def holds(kind: int, low: float, high: float, a: float, b: float) -> bool:
    """[a, b) for uniform, or a alone where the dtype has nothing between; [a, b] for the other."""
    if kind == _C.UNIFORM and a < b:
        return a <= low and high < b
    return a <= low and high <= b


def scan(kind: int, parameters: tuple[float, ...], dtype: torch.dtype, count: int) -> list[float]:
    """Smallest and largest element over the words [0, count / 2) and as many from the top."""
    function = Function(kind, CODES[dtype], parameters)
    ends = (0, ALL - count // 2)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda first: extremes(function, first, count // 2), ends))
    low, high = zip(*found, strict=True)
    # Not min() alone, which a NaN may pass by.
    if any(math.isnan(x) for x in (*low, *high)):
        return [math.nan, math.nan]
    return [min(low), max(high)]


def run(quick: bool) -> Section:
    """The section of the report."""
    section = Section(TITLE)
    count = ALL >> 6 if quick else ALL
    section.text(
        f"Smallest and largest value over {'some' if quick else 'all'} 2^{count.bit_length() - 1} "
        "words. A uniform has to be in [a, b) and a truncated normal (mean, std, a, b) in [a, b], "
        "as the dtype represents a and b; where it has but one number for both, that is the value."
    )
    rows = []
    for kind, law, cases in (
        (_C.UNIFORM, "uniform", UNIFORM),
        (_C.TRUNC_NORMAL, "trunc", TRUNCATED),
    ):
        for name, parameters, dtypes in cases:
            rows.append([f"{law}({', '.join(f'{x:.9g}' for x in parameters)})", name])
            verdicts = set()
            for dtype in DTYPES:
                if dtype not in dtypes:
                    rows[-1].append("")
                    continue
                low, high = scan(kind, parameters, dtype, count)
                a, b = (represented(bound, dtype) for bound in parameters[-2:])
                what = f"{rows[-1][0]} in {name_of(dtype)} gives [{low!r}, {high!r}]"
                verdicts.add(section.require(holds(kind, low, high, a, b), what))
                rows[-1].append(f"{low:.9g} to {high:.9g}")
            rows[-1].append(max(verdicts, key=len))
    section.table(["", "what is nasty", *map(name_of, DTYPES), "verdict"], rows)
    return section
