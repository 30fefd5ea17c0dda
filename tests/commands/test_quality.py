"""The tools of quality/ themselves: that they can fail, and that the evaluator is the fill."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastinit import _C
from quality import accuracy, bits, bounds, evaluator, goodness, independence, laws, report, samples
from quality.references import BLOCK, Interpolated, Quantile, cosine, log_radius

N = 100_003  # no multiple of any vector
NORMAL = laws.Law("normal", _C.NORMAL, (0.0, 1.0))
UNIFORM = laws.Law("uniform", _C.UNIFORM, (-0.1, 0.2))
TRUNCATED = laws.Law("truncated", _C.TRUNC_NORMAL, (0.0, 1.0, 2.0, 4.0))
LAWS = (NORMAL, UNIFORM, TRUNCATED)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_evaluator_of_given_words_is_the_fill(law: laws.Law, dtype: torch.dtype) -> None:
    function = evaluator.Function(law.kind, samples.CODES[dtype], law.parameters)
    words = samples.words(2 * N + 2)  # the last element's partner, too
    got = evaluator.evaluate(function, words)[:N]
    expected = samples.draw(law.kind, dtype, law.parameters, N)
    assert np.array_equal(got.view(np.uint8), expected.view(torch.uint8).numpy())


def test_extremes_are_those_of_the_values() -> None:
    function = evaluator.Function(_C.TRUNC_NORMAL, _C.BFLOAT16, (0.0, 1.0, -2.5, 0.5))
    first = 5 << 16
    bf16 = evaluator.evaluate(function, np.arange(first, first + (1 << 17), dtype=np.uint32))
    values = (bf16.astype(np.uint32) << np.uint32(16)).view(np.float32)
    assert evaluator.extremes(function, first, 1 << 17) == (values.min(), values.max())


@pytest.mark.parametrize("low", [0.1, math.nan])
@pytest.mark.parametrize("high", [0.2, 0.3, math.nan])
def test_a_bound_that_is_passed_is_noticed(low: float, high: float) -> None:
    assert not bounds.holds(_C.UNIFORM, low, high, 0.1, 0.2)
    assert bounds.holds(_C.TRUNC_NORMAL, low, high, 0.1, 0.2) == (low == 0.1 and high == 0.2)


@pytest.mark.parametrize("reference", [log_radius, cosine, Quantile(-2, 2), Quantile(3, math.inf)])
@pytest.mark.parametrize("block", [0, 1, 16384, 30000, 32767, 32768, 65535])
def test_an_interpolated_reference_is_the_reference(reference, block: int) -> None:
    word = block * BLOCK + np.arange(BLOCK)
    exact = reference(word)
    got = Interpolated(reference)(block, 1)[0]
    assert np.all(np.abs(got - exact) <= 2.0**-33 * np.abs(exact))


def test_eight_ulp_are_noticed() -> None:
    word = samples.words(1 << 16)
    exact = log_radius(word)
    values = evaluator.evaluate(evaluator.Function(evaluator.LOG_RADIUS), word)
    assert accuracy.worst(values, exact).ulp < accuracy.GOAL
    values[777] += 8 * np.spacing(values[777])
    found = accuracy.worst(values, exact)
    assert found.at == 777
    assert 6 < found.ulp < 10
    values[778] = np.nan
    assert not accuracy.worst(values, exact).ulp <= accuracy.GOAL


def test_an_error_in_fp64_is_noticed() -> None:
    word = samples.words(1 << 12)
    function = evaluator.Function(_C.TRUNC_NORMAL, _C.FLOAT64, (0.0, 1.0, -2.0, 2.0))
    values = evaluator.evaluate(function, word)
    values[5] += 8 * np.spacing(values[5])
    errors = evaluator.quantile_errors((-2.0, 2.0), accuracy.bits_of_double(word), values)
    assert accuracy.worst64(errors, values).at == 5
    assert accuracy.worst64(errors, values).ulp > 4


def p_values(values: torch.Tensor, law: laws.Law) -> tuple[float, float]:
    ordered = goodness.ordered_sample(values)
    return (
        goodness.kolmogorov_smirnov(ordered, law, values.dtype),
        goodness.binned_chi_square(ordered, laws.bins(law, values.dtype, 256)),
    )


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_tests_of_fit_pass_and_fail(law: laws.Law, dtype: torch.dtype) -> None:
    values = samples.draw(law.kind, dtype, law.parameters, 200_000)
    assert min(p_values(values, law)) > 1e-3
    # One value in twenty is drawn again where it lies in the upper half.
    median = float(law.quantile(np.array(0.5)))
    twice = values.clone()
    twice[::20] = torch.where(values[::20] > median, values[1::20], values[::20])
    assert max(p_values(twice, law)) < 1e-4


def test_moments_are_those_of_the_law() -> None:
    assert [NORMAL.moment(k) for k in range(5)] == pytest.approx([1, 0, 1, 0, 3], abs=1e-12)
    narrow = laws.Law("", _C.TRUNC_NORMAL, (0.0, 1.0, -1e-3, 1e-3))
    assert narrow.moment(2) == pytest.approx(1e-6 / 3, rel=1e-5)
    # Eight bits: what would round to 1 is a step of 2^-8 lower, a step's worth of 2^-9.
    unit = laws.Law("", _C.UNIFORM, (0.0, 1.0))
    assert laws.rounded_moment(unit, torch.bfloat16, 1) == pytest.approx(0.5 - 2.0**-17, abs=1e-6)


def test_what_two_streams_share_is_noticed() -> None:
    n = 1 << 16
    left, right = (
        independence.Sample(samples.words(n, seed=seed), samples.normals(n, seed=seed))
        for seed in (1, 2)
    )
    assert min(independence.compare(left, right).values()) > 1e-4
    shared = independence.Sample(right.words.copy(), right.normals.copy())
    shared.words[::20], shared.normals[::20] = left.words[::20], left.normals[::20]
    found = independence.compare(left, shared)
    for what in ("words", "normals", "squares", "high bytes", "low bytes", "bits that differ"):
        assert found[what] < 1e-6, what


class Altered(samples.Source):
    """A stream in which every 64th word is a small number, and comes twice in succession."""

    def words(self, start: int, n: int) -> NDArray[np.uint32]:
        good = super().words(start, n).copy()
        good[::64] = good[1::64] = np.arange(start, start + n, 64, dtype=np.uint32)
        return good


@pytest.mark.parametrize("name", bits.TESTS)
def test_bit_tests_pass_and_fail(name: str) -> None:
    source = samples.sources()[0]
    assert bits.TESTS[name](source, True) > 1e-3
    if "lag" not in name or name.endswith("64"):  # an altered word's neighbours are good
        assert bits.TESTS[name](Altered("altered", source.keys), True) < 1e-4


def test_a_family_is_judged_by_its_size() -> None:
    family = goodness.Family()
    family.add("one", 5e-4)
    assert family.failures()
    for n in range(9):
        family.add(f"other {n}", 0.5)
    assert not family.failures()
    family.add("not a number", math.nan)
    assert len(family.failures()) == 1


def test_a_section_is_replaced_in_the_report(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(report, "REPORT", tmp_path / "REPORT.md")
    order = ["First", "Second"]
    report.update(
        [report.Section("Second", ["old"]), report.Section("First", ["kept"])], order, "# T"
    )
    failed = report.Section("Second", ["new"])
    assert failed.require(False, "too large") == "**FAIL**"
    report.update([failed], order, "# T")
    text = report.REPORT.read_text()
    assert text.startswith("# T\n## First")
    assert "kept" in text
    assert "**FAIL**: too large" in text
    assert "old" not in text
