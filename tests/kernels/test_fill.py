"""The values of the native fill: the frozen vectors, and the oracle on every instruction set, kind
and dtype."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import math
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import oracle
import pytest
import torch
from filling import WORDS, Rule, bits, dtype_name, filled, indices, same, segment
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_oracle import ANSWERS

from fastinit import _C, fused, init

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "vectors" / "stream_v1.json").read_text(encoding="utf-8")
)
TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "uint32": torch.int32,
}
N = 20_000

u64 = st.integers(0, 2**64 - 1)
starts = st.one_of(st.integers(0, 2**62), st.integers(0, 40), st.integers(2**34 - 40, 2**34))


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "result"), [ANSWERS[0]])
def test_words_are_the_published_answers(isa: str, counter: str, key: str, result: str) -> None:
    # Of the three published counters only this one is a block that an index below 2**63 reaches;
    # the oracle, which the test below compares with, knows all three.
    block = int(counter.split()[0], 16)
    got = filled(4, torch.int32, WORDS, seed=0, stream=0, start=4 * block, isa=isa)
    assert [f"{word:08x}" for word in bits(got).view(np.uint32)] == result.split()


@given(seed=u64, stream=u64, start=starts, n=st.integers(0, 700))
def test_words_equal_the_oracle(isa: str, seed: int, stream: int, start: int, n: int) -> None:
    got = bits(filled(n, torch.int32, WORDS, seed, stream, start, isa=isa)).view(np.uint32)
    assert np.array_equal(got, oracle.words(seed, stream, indices(n, start)))


def test_words_equal_the_oracle_up_to_the_last_index(isa: str) -> None:
    start = 2**63 - 1 - 50
    got = bits(filled(50, torch.int32, WORDS, 3, 4, start, isa=isa)).view(np.uint32)
    assert np.array_equal(got, oracle.words(3, 4, indices(50, start)))


# --- golden vectors -------------------------------------------------------------------------------


def _identity(entry: dict[str, Any]) -> str:
    return f"{entry['kind']}{entry['parameters']}-{entry['dtype']}-{entry['start']}".replace(
        "'", ""
    )


def _golden(entry: dict[str, Any]) -> torch.Tensor:
    values = [int(value, 16) for value in entry["values"].split()]
    unsigned = np.array(values, dtype=np.uint64)
    narrow = unsigned.astype(f"u{TORCH[entry['dtype']].itemsize}")
    return torch.from_numpy(narrow.view(f"i{narrow.itemsize}")).view(TORCH[entry["dtype"]])


def test_every_kind_and_dtype_has_golden_vectors() -> None:
    seen = {(entry["kind"], entry["dtype"]) for entry in GOLDEN}
    kinds = set(_C.KINDS) - {"words"}
    wanted = {(kind, dtype) for kind in kinds for dtype in TORCH if dtype != "uint32"}
    assert seen == wanted | {("words", "uint32")}
    assert max(entry["start"] for entry in GOLDEN) > 2**40


@pytest.mark.parametrize("entry", GOLDEN, ids=_identity)
def test_golden_vectors(isa: str, entry: dict[str, Any]) -> None:
    golden = _golden(entry)
    rule = Rule(entry["kind"], tuple(float(value) for value in entry["parameters"]))
    seed, stream = int(entry["seed"], 16), int(entry["stream"], 16)
    assert stream == oracle.stream_id(entry["name"])
    got = filled(len(golden), golden.dtype, rule, seed, stream, entry["start"], isa=isa)
    assert same(got, golden)


@pytest.mark.parametrize("entry", GOLDEN, ids=_identity)
def test_golden_vectors_are_right(entry: dict[str, Any]) -> None:
    golden = _golden(entry)
    seed, stream = int(entry["seed"], 16), int(entry["stream"], 16)
    index = indices(len(golden), entry["start"])
    if entry["kind"] == "words":
        assert np.array_equal(bits(golden).view(np.uint32), oracle.words(seed, stream, index))
        return
    rule = Rule(entry["kind"], tuple(float(value) for value in entry["parameters"]))
    check(golden, rule, rule.expected(seed, stream, index, entry["dtype"]))


# --- values against the oracle --------------------------------------------------------------------

RULES = [
    Rule("constant", (0.1,)),
    Rule("constant", (-0.0,)),
    Rule("uniform", (0.0, 1.0)),
    Rule("uniform", (-0.036, 0.036)),
    Rule("uniform", (3.0, 3.1)),
    Rule("uniform", (-1e-3, 5.0)),
    Rule("normal", (0.0, 1.0)),
    Rule("normal", (0.0, 0.02)),
    Rule("normal", (-3.0, 0.1)),
    Rule("normal", (7.0, 0.0)),
    Rule("trunc_normal", (0.0, 1.0, -2.0, 2.0)),
    Rule("trunc_normal", (0.0, 0.02, -2.0, 2.0)),
    Rule("trunc_normal", (1.0, 2.0, -1.0, 1.5)),
    Rule("trunc_normal", (0.0, 1.0, 2.0, 4.0)),
    Rule("trunc_normal", (0.0, 1.0, 5.0, 6.0)),
    Rule("trunc_normal", (0.0, 1.0, -9.0, -8.0)),
    Rule("trunc_normal", (0.0, 1.0, -10.0, 10.0)),
    Rule("trunc_normal", (0.0, 1.0, -0.01, 0.01)),
    Rule("trunc_normal", (0.0, 1.0, -math.inf, math.inf)),
    Rule("trunc_normal", (0.5, 2.0, 1.0, math.inf)),
]

# How far a value may lie from the oracle's: so many ulps of it or, since a mean cancels and a
# quantile passes zero, so many ulps of the larger of mean and std; a normal around zero has no such
# excuse. In float64 the oracle's own error is part of it: `test_float64_to_fifty_digits` judges the
# kernel alone.
ULPS = {
    ("normal", "float32"): (5.0, 1.0),
    ("normal", "float64"): (6.0, 1.0),
    ("trunc_normal", "float32"): (5.0, 2.0),
    ("trunc_normal", "float64"): (10.0, 6.0),
}


def tolerance(rule: Rule, expected: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    """The largest error allowed for each value, before rounding to a 16-bit dtype."""
    if rule.kind in ("constant", "uniform"):
        return np.zeros_like(expected)
    working = np.float64 if dtype == "float64" else np.float32
    relative, absolute = ULPS[rule.kind, np.dtype(working).name]
    mean, std = rule.parameters[:2]
    scale = 0.0 if rule.kind == "normal" and mean == 0.0 else max(abs(mean), std)
    ulp = np.spacing(np.abs(expected).astype(working)).astype(np.float64)
    return np.maximum(relative * ulp, absolute * np.spacing(working(scale)))


def check(got: torch.Tensor, rule: Rule, expected: NDArray[np.float64]) -> None:
    """Every value within tolerance of the oracle's. For the 16-bit dtypes: one of the values that a
    float32 within tolerance rounds to."""
    name = dtype_name(got.dtype)
    slack = tolerance(rule, expected, name)
    if got.dtype in (torch.float16, torch.bfloat16):
        low = torch.from_numpy((expected - slack).astype(np.float32)).to(got.dtype)
        high = torch.from_numpy((expected + slack).astype(np.float32)).to(got.dtype)
        assert bool(((low <= got) & (got <= high)).all())
        return
    error = np.abs(got.double().numpy() - expected)
    wrong = np.flatnonzero(~(error <= slack))
    assert not len(wrong), (
        f"elements {wrong}: {got[wrong].tolist()}, not {expected[wrong].tolist()}"
    )


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_values_equal_the_oracle(isa: str, dtype: torch.dtype, rule: Rule) -> None:
    n = 2000 if dtype == torch.float64 else N
    seed, stream, start = 2**63 + 5, oracle.stream_id("layers.3.weight"), 7
    got = filled(n, dtype, rule, seed, stream, start, isa=isa)
    check(got, rule, rule.expected(seed, stream, indices(n, start), dtype_name(dtype)))


@given(seed=u64, stream=u64, start=starts, n=st.integers(0, 300), rule=st.sampled_from(RULES))
def test_values_equal_the_oracle_anywhere(
    isa: str, dtype: torch.dtype, seed: int, stream: int, start: int, n: int, rule: Rule
) -> None:
    got = filled(n, dtype, rule, seed, stream, start, isa=isa)
    check(got, rule, rule.expected(seed, stream, indices(n, start), dtype_name(dtype)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_half_precision_is_float32_rounded(isa: str, dtype: torch.dtype, rule: Rule) -> None:
    wide = filled(N, torch.float32, rule, 11, 12, isa=isa).to(dtype)
    if rule.kind == "uniform":  # but for the values that rounding would put on the excluded bound
        top = oracle.below(
            oracle.represent(rule.parameters[1], dtype_name(dtype)), dtype_name(dtype)
        )
        wide = torch.clamp(wide, max=top)
    assert same(filled(N, dtype, rule, 11, 12, isa=isa), wide)


@pytest.mark.parametrize(
    "value", [0.1, -0.0, 1 + 2**-8 + 2**-30, 65519.999, 1e-42, -3e-8, 2**-25, 1e38]
)
def test_constants_are_rounded_as_torch_does(isa: str, dtype: torch.dtype, value: float) -> None:
    if dtype == torch.float16 and value > 65504:
        expected = torch.full((70,), value, dtype=torch.float32).to(dtype)
    else:
        expected = torch.full((70,), value, dtype=dtype)
    assert same(filled(70, dtype, Rule("constant", (value,)), isa=isa), expected)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_instruction_sets_agree_bit_by_bit(dtype: torch.dtype, rule: Rule) -> None:
    reference = filled(300_001, dtype, rule, 5, 6, 2**35 - 100_001, isa="scalar")
    for other in _C.isas():
        assert same(filled(300_001, dtype, rule, 5, 6, 2**35 - 100_001, isa=other), reference), (
            other
        )


# Elements that own an extreme word, found by search: (stream, element), all of seed 0.
EXTREME = {
    "radius 0: 6.7 sigma": [(1, 10443775272), (1, 11882685130), (1, 21981283676)],
    "radius 1": [(1, 1053156830), (1, 1884131016)],
    "radius ffffffff: next to zero": [(0, 8098165446)],
    "radius fffffffe": [(0, 1124989170)],
    "radius 80000000": [(0, 8191531328), (0, 12813606598)],
    "angle 0": [(0, 5992377490)],
    "angle 1": [(0, 11600211446)],
    "angle ffffffff": [(0, 6153212236)],
    "angle 7fffffff": [(0, 7426317472)],
    "angle 80000000": [(0, 2592375474)],
    "angle c0000000": [(0, 1668051984), (0, 1946249028)],
}


@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_extreme_words(isa: str, name: str, rule: Rule) -> None:
    for stream, element in EXTREME[name]:
        got = filled(2, torch.float32, rule, 0, stream, element, isa=isa)
        expected = rule.expected(0, stream, indices(2, element), "float32")
        if rule.kind == "normal" and name.startswith("angle"):
            # On an axis the coordinate that is zero in the real numbers is the rounding of an angle
            # here.
            expected = np.where(np.abs(expected - got.numpy()) < 1e-16, got.numpy(), expected)
        check(got, rule, expected)


# 53 bits go further, but no search finds where.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_normals_reach_the_far_tail(isa: str, dtype: torch.dtype) -> None:
    got = filled(2, dtype, Rule("normal", (0.0, 1.0)), 0, 1, 21981283676, isa=isa)
    assert float(got[1]) > 6.74


@pytest.mark.parametrize("rule", [rule for rule in RULES if "normal" in rule.kind], ids=str)
def test_float64_to_fifty_digits(rule: Rule) -> None:
    n = 100
    got = filled(n, torch.float64, rule, 1, 2, 3).tolist()
    exact = getattr(oracle, f"exact_{rule.kind}")
    mean = rule.parameters[0]
    for i, value in enumerate(got):
        truth = exact(1, 2, 3 + i, "float64", *rule.parameters)
        slack = 4 * math.ulp(max(abs(value), abs(value - mean)))
        assert abs(mpmath.mpf(value) - truth) <= slack, f"element {3 + i}"


# --- the caller's floating-point mode -------------------------------------------------------------


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Denormal operands and results are zero, as torch.set_flush_denormal asks of the processor."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no flush-to-zero mode")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def rounding_up() -> Iterator[None]:
    """C's fesetround(FE_UPWARD)."""
    upward = {"x86_64": 0x800, "AMD64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}
    if platform.machine() not in upward or sys.platform == "win32":
        pytest.skip("FE_UPWARD is not known here")
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    libm.fesetround(upward[platform.machine()])
    try:
        yield
    finally:
        libm.fesetround(0)


def _mode_is_set(x: float) -> bool:
    """Whether arithmetic outside the fill is in one of the two modes."""
    return x * 2.0**-1070 == 0.0 or 1.0 + x * 2.0**-60 > 1.0


@pytest.mark.parametrize("mode", [flushing_denormals, rounding_up])
@pytest.mark.parametrize("kind", ["constant", "uniform", "normal", "trunc_normal"])
def test_the_floating_point_mode_does_not_matter(
    cpu_isa: str, dtype: torch.dtype, kind: str, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    tiny = torch.finfo(dtype).tiny
    thirds = {
        "constant": [(tiny / 3,), (1 / 3,)],
        "uniform": [(-tiny, tiny), (-1 / 3, 2 / 3), (0.0, 1.1 * tiny)],
        "normal": [(0.0, tiny), (1 / 3, tiny / 3), (0.1, 0.2)],
        "trunc_normal": [(0.0, tiny, -2 * tiny, 2 * tiny), (0.1, 1 / 3, -0.7, 0.8)],
    }
    for parameters in thirds[kind]:
        rule = Rule(kind, parameters)
        plain = filled(300_000, dtype, rule, 1, 2, isa=cpu_isa)
        many = torch.empty_like(plain)
        rows = [segment(many, rule, 1, 2)]
        assert not _mode_is_set(1.0)
        with mode():
            _C.fill(rows, 2, cpu_isa)
            still_set = _mode_is_set(1.0)
        assert same(many, plain), "what other threads write included"
        assert still_set


@pytest.mark.parametrize("mode", [flushing_denormals, rounding_up])
def test_nor_does_it_matter_to_the_threads_of_a_plan(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    """Threads begin in the mode of the one that starts them."""
    tiny = torch.finfo(torch.float32).tiny
    plain, many = torch.empty(2, 400_000)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with fused(seed=1):
            init.uniform_(plain, -tiny, tiny)
        with mode(), fused(seed=1):
            init.uniform_(many, -tiny, tiny)
    finally:
        torch.set_num_threads(threads)
    assert same(many, plain)
