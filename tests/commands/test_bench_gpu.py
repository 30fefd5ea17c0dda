"""The GPU's benchmark, carried out on the CPU: what it reports is complete and right."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastinit
from bench import fill, gpu
from bench.lib import cases, gpu_models, gpu_timing, timing
from examples.llama import SMALL

CLOCKS = dict.fromkeys(gpu_timing.CLOCKS, timing.wall_clock)


@pytest.mark.parametrize(("distribution", "dtype"), gpu.ROWS)
def test_a_row(distribution: str, dtype: str) -> None:
    record = gpu.measure_fill(
        distribution, dtype, 4096, rounds=2, device="cpu", clock=timing.wall_clock
    )
    json.dumps(record)
    itemsize = getattr(torch, dtype).itemsize
    for name, result in record["competitors"].items():
        moved = 4096 * itemsize * (2 if name == "copy_" else 1)
        assert result["gb_per_s"] == pytest.approx(moved / result["median_s"] / 1e9)
    shown = gpu.describe(record)
    goals = gpu.ROWS[distribution, dtype]
    assert shown.count("goal: ") == sum(goal.figure != "of_issue" for goal in goals)
    assert "times torch" in shown


def test_many_tensors() -> None:
    record = gpu_models.measure_many(5, 4, rounds=2, device="cpu", clocks=CLOCKS)
    json.dumps(record)
    assert set(record["times"]) == {"wall", "call"}
    competitors = {"torch", "fastinit", "mmengine", "fastinit loop"}
    assert set(record["times"]["wall"]) == competitors
    assert "5 tensors of 16, 80 elements in 5 tensors" in gpu.describe(record)


def test_a_model() -> None:
    case = cases.llama("llama", SMALL)
    record = gpu_models.measure_model(case, rounds=1, device="cpu", clocks=CLOCKS)
    json.dumps(record)
    assert [goal["figure"] for goal in record["goals"]] == ["wall_over_mmengine"]
    assert "goal: wall_over_mmengine >= 10, found" in gpu.describe(record)


def test_a_row_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise LookupError("broken")

    monkeypatch.setattr(gpu, "measure_fill", refuse)
    given = ["--part", "single", "--device", "cpu", "--elements", "8192", "--rounds", "1"]
    records = list(gpu.run(gpu.parse(given)))
    kinds = [record["record"] for record in records]
    assert kinds == ["error"] * len(gpu.ROWS) + ["layout"] * 2 * len(gpu.LAYOUTS)
    assert gpu.describe(records[0]) == "uniform float32: LookupError: broken"


@pytest.mark.parametrize("view", gpu.LAYOUTS)
def test_layouts_are_of_the_same_memory(view: Callable[[Tensor], Tensor]) -> None:
    whole = torch.zeros(1 << 14)
    view(whole).fill_(1)
    assert 0 < view(whole).numel() == int(whole.sum()) <= len(whole)
    assert not view(whole).is_contiguous() or view is gpu.odd


def test_what_could_be_issued() -> None:
    bound = gpu.issue_bound("normal", "float32", 132, 1.98)
    assert bound is not None
    assert 0.8e12 < bound < 1.0e12
    assert gpu.issue_bound("normal", "float32", 66, 1.98) == pytest.approx(bound / 2)
    assert gpu.issue_bound("nothing", "float32", 132, 1.98) is None


def test_values_that_are_not_the_cpus_are_noticed() -> None:
    rule = fill.RULES["normal"]
    tensor = torch.empty(200_000)
    seed = gpu_timing.seeded(lambda: rule.apply(fastinit.init, tensor))
    gpu_timing.require_equal(rule, tensor, seed, "#0")
    tensor[-1] *= -1
    with pytest.raises(RuntimeError, match="from element 134464 on: not the CPU's"):
        gpu_timing.require_equal(rule, tensor, seed, "#0")


def test_goals() -> None:
    assert gpu_timing.Goal("ratio", 2.0).judge({"ratio": 2.0})["met"]
    assert not gpu_timing.Goal("ratio", 2.0).judge({"ratio": 1.9})["met"]
    assert not gpu_timing.Goal("ms", 20.0, at_most=True).judge({"ms": 21.0})["met"]


def test_sizes() -> None:
    assert gpu.fitting(1 << 30, 80 << 30) == 1 << 30
    assert gpu.fitting(1 << 30, 10 << 30) == 1 << 29
    assert gpu.parse(["--quick"]).elements == 1 << 26
    assert gpu.parse([]).elements == 1 << 30


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main([])
