"""The GPU's benchmark, carried out on the CPU: what it reports is complete and right."""

from __future__ import annotations

import json

import pytest
import torch

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
    assert shown.count("goal: ") == len(gpu.ROWS[distribution, dtype])
    assert "times torch" in shown


def test_many_tensors() -> None:
    record = gpu_models.measure_many(5, 4, rounds=2, device="cpu", clocks=CLOCKS)
    json.dumps(record)
    assert set(record["times"]) == set(CLOCKS)
    competitors = {"torch", "fastinit", "mmengine", "fastinit loop"}
    assert set(record["times"]["wall"]) == competitors
    assert "5 tensors of 16, 80 elements in 5 tensors" in gpu.describe(record)


def test_a_model() -> None:
    case = cases.llama("llama", SMALL)
    record = gpu_models.measure_model(case, rounds=1, device="cpu", clocks=CLOCKS)
    json.dumps(record)
    assert [goal["figure"] for goal in record["goals"]] == ["wall_ms", "wall_over_mmengine"]
    assert "goal: wall_ms <= 20, found" in gpu.describe(record)


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
