"""The benchmarks on tiny sizes: what they report is complete and right. No times are asserted."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch

import fastinit
from bench import build, cold, demo, fill, models, roofline, small
from bench.lib import cases, timing
from bench.lib.rules import Rule, check, fans
from examples.llama import SMALL
from fastinit.commands.bench import _seconds


class TestRules:
    def test_trunc_normal_moments_are_scipys(self) -> None:
        for mean, std, a, b in [
            (0.0, 0.02, -0.06, 0.06),
            (1.0, 2.0, -1.0, 1.5),
            (0.0, 1.0, 1.0, 4.0),
        ]:
            rule = Rule("trunc_normal_", {"mean": mean, "std": std, "a": a, "b": b})
            exact = scipy.stats.truncnorm((a - mean) / std, (b - mean) / std, loc=mean, scale=std)
            expected_mean, variance, excess = exact.stats(moments="mvk")
            found = rule.moments(torch.empty(3))
            assert found.mean == pytest.approx(expected_mean, rel=1e-9, abs=1e-12)
            assert found.std == pytest.approx(math.sqrt(variance), rel=1e-9)
            assert found.kurtosis == pytest.approx(excess + 3, rel=1e-6)

    def test_fans_of_a_convolution(self) -> None:
        assert fans(torch.empty(64, 32, 3, 5)) == (32 * 15, 64 * 15)

    @pytest.mark.parametrize("distribution", fill.RULES)
    @pytest.mark.parametrize("namespace", [torch.nn.init, fastinit.init], ids=["torch", "fastinit"])
    def test_measured_moments_agree(self, distribution: str, namespace: Any) -> None:
        torch.manual_seed(0)
        tensor = torch.empty(256, 1024)
        rule = fill.RULES[distribution]
        rule.apply(namespace, tensor)
        outcome = check(rule, [tensor])
        assert outcome.ok, outcome
        assert outcome.elements == tensor.numel()

    @pytest.mark.parametrize("distribution", fill.RULES)
    def test_a_wrong_fill_is_noticed(self, distribution: str) -> None:
        tensor = torch.empty(256, 1024)
        rule = fill.RULES[distribution]
        rule.apply(torch.nn.init, tensor)
        assert not check(rule, [tensor * 1.05]).ok
        tensor[0] += 1.0
        assert not check(rule, [tensor]).ok

    def test_pooled_over_different_fans(self) -> None:
        torch.manual_seed(0)
        rule = Rule("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"})
        tensors = [torch.empty(64, 64), torch.empty(512, 16, 3, 3)]
        for tensor in tensors:
            rule.apply(torch.nn.init, tensor)
        outcome = check(rule, tensors)
        assert outcome.ok, outcome
        assert min(2 / (512 * 9), 2 / 64) < outcome.expected_std**2 < 2 / 64

    def test_unknown_function_and_nothing_to_check(self) -> None:
        with pytest.raises(ValueError, match="orthogonal_"):
            Rule("orthogonal_").moments(torch.empty(2, 2))
        with pytest.raises(ValueError, match="nothing to check"):
            check(fill.RULES["normal"], [])


class TestTiming:
    def test_alternation_rotates_the_order(self) -> None:
        order: list[str] = []
        competitors = {name: lambda name=name: order.append(name) for name in "abc"}
        heard: list[tuple[str, float]] = []
        times = timing.alternate(
            competitors, rounds=3, repeat=2, after=lambda *heard_of: heard.append(heard_of)
        )
        assert "".join(order) == "aabbcc" + "bbccaa" + "ccaabb"
        assert [name for name, _ in heard] == list("abcbcacab")
        assert all(len(t.seconds) == 3 for t in times.values())

    def test_ratio_is_taken_round_by_round(self) -> None:
        slow, fast = timing.Times((2.0, 40.0, 6.0)), timing.Times((1.0, 10.0, 3.0))
        assert slow.over(fast) == 2.0
        assert slow.summary() == {"median_s": 6.0, "min_s": 2.0, "max_s": 40.0, "rounds": 3}

    @pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
    def test_peak_memory_sees_what_was_freed_again(self) -> None:
        """In a process of its own: one that has freed memory before may be given that again."""
        code = (
            "from bench.lib import timing; memory = timing.PeakMemory(); memory.start(); "
            "timing.warm(64 << 20); print(memory.extra_bytes())"
        )
        root = Path(timing.__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert 60 << 20 < int(done.stdout) < 128 << 20

    @pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc")
    def test_work_elsewhere_is_seen(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
            elsewhere = timing.Elsewhere()
            assert elsewhere.share() is None  # too short to tell
            time.sleep(1)
            share = elsewhere.share()
            other.kill()
        assert share is not None
        assert share > 0.4 / (os.cpu_count() or 1)

    @pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc")
    def test_ones_own_work_is_not_elsewhere(self) -> None:
        before = timing._busy_seconds()
        idle_before, start = time.process_time(), time.perf_counter()
        while time.process_time() - idle_before < 0.6:
            sum(range(1000))
        wall = time.perf_counter() - start
        after = timing._busy_seconds()
        assert before is not None
        assert after is not None
        # All cores but for what this process used: its own 0.6 s would break the bound if counted.
        assert after - before < wall * (os.cpu_count() or 1) - 0.5

    def test_work_elsewhere_is_pointed_out(self) -> None:
        assert "60% busy elsewhere" in timing.describe_share(0.6)
        assert timing.describe_share(0.01) == timing.describe_share(None) == ""

    def test_machine_is_described(self) -> None:
        here = timing.machine()
        assert here["torch"] == torch.__version__
        assert here["threads"] == torch.get_num_threads()
        assert here["cpu"]
        assert here["fastinit_isa"] in timing.describe_machine(here)


class TestFill:
    def test_record(self) -> None:
        torch.manual_seed(0)
        threads = torch.get_num_threads()
        record = fill.measure("uniform", "float32", 4096, threads=1, rounds=2)
        assert torch.get_num_threads() == threads
        assert record["elements"] == 4096
        assert record["threads"] == 1
        assert set(record["competitors"]) == {"torch", "fastinit", "fill"}
        for name, result in record["competitors"].items():
            assert 0 < result["min_s"] <= result["median_s"] <= result["max_s"]
            assert result["gb_per_s"] == pytest.approx(4096 * 4 / result["median_s"] / 1e9)
            assert name == "fill" or result["check"]["ok"], result
        assert "uniform" in fill.describe(record)

    def test_main_writes_json_lines(self, tmp_path: Path) -> None:
        output = tmp_path / "results" / "fill.jsonl"
        options = ["--distributions", "constant", "normal", "--dtypes", "float64"]
        options += ["--sizes", "256", "--rounds", "1"]
        fill.main([*options, "--output", str(output)])
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert [r["record"] for r in records] == ["machine", "fill", "fill"]
        assert [r.get("distribution") for r in records] == [None, "constant", "normal"]

    def test_each_isa_runs_in_its_own_process(self, tmp_path: Path) -> None:
        output = tmp_path / "fill.jsonl"
        options = ["--distributions", "normal", "--dtypes", "float32"]
        options += ["--sizes", "1024", "--rounds", "1"]
        isas = list(fastinit._C.isas())
        fill.main([*options, "--isas", *isas, "--output", str(output)])
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert [r["isa"] for r in records if r["record"] == "fill"] == isas

    def test_sizes_that_have_no_shape_are_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            fill.parse(["--sizes", "1025"])
        assert "1025 is not a multiple of 1024" in capsys.readouterr().err


SMALL_CASES = [
    cases.llama("llama", SMALL),
    cases.llama("llama-trunc", SMALL, truncated=True),
    cases.small_tensors(20),
    cases.resnet((1, 1), width=8, classes=10),
]


class TestModels:
    @pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.name)
    @pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
    def test_record(self, case: cases.Case, cold: bool) -> None:
        torch.manual_seed(0)
        heard: list[str] = []
        subject = models.Subject(case)
        record = models.measure(
            subject, rounds=2, cold=cold, on_run=lambda name, seconds: heard.append(name)
        )
        assert heard == ["torch", "mmengine", "fastinit", "mmengine", "fastinit", "torch"]
        assert set(record["competitors"]) == set(models.COMPETITORS)
        for name, result in record["competitors"].items():
            assert sum(outcome["elements"] for outcome in result["checks"]) == record["elements"]
            for outcome in result["checks"]:
                assert outcome["ok"], (name, outcome)
        assert record["competitors"]["fastinit"]["ratio"] == 1.0
        json.dumps(record)
        assert case.name in models.describe(record)

    def test_competitors_share_the_parameters(self) -> None:
        subject = models.Subject(cases.small_tensors(3))
        pointers = [[p.data_ptr() for p in twin.parameters()] for twin in subject.twins.values()]
        assert pointers[0] == pointers[1] == pointers[2]
        assert len(set(pointers[0])) == 3

    def test_every_run_writes_everything_anew(self) -> None:
        subject = models.Subject(cases.small_tensors(3))
        weight = next(subject.twins["torch"].parameters())
        seen = []
        for competitor in models.COMPETITORS * 2:
            weight.data.fill_(7)
            subject.prepare(competitor)
            subject.initialise(competitor)
            assert not bool((weight == 7).any())
            seen.append(weight.detach().clone())
        assert all(not torch.equal(a, b) for a, b in itertools.pairwise(seen))

    def test_a_parameter_without_a_rule_is_an_error(self) -> None:
        case = cases.Case("nothing", cases.small_tensors(1).build, groups=())
        with pytest.raises(ValueError, match=r"parts\.0\.weight belongs to no group"):
            case.grouped(case.build(device="meta"))

    def test_the_resnet_is_resnet50s_size(self) -> None:
        model = cases.resnet().build(device="meta")
        assert sum(p.numel() for p in model.parameters()) == 25_557_032

    def test_dtype(self) -> None:
        subject = models.Subject(cases.small_tensors(2), torch.bfloat16)
        record = models.measure(subject, rounds=1)
        assert record["dtype"] == "bfloat16"
        assert subject.nbytes == 2 * record["elements"]

    def test_main_writes_json_lines(self, tmp_path: Path) -> None:
        output = tmp_path / "models.jsonl"
        models.main(["--quick", "--rounds", "1", "--output", str(output)])
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert [r["record"] for r in records] == ["machine", "model", "model"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are Linux's")
def test_cold_measures_both_kinds_of_pages() -> None:
    record = cold.measure(gib=2**-6, rounds=1)
    assert record["bytes"] == 2**24
    assert set(record["competitors"]) == {"huge pages", "small pages"}
    assert record["ratio"] > 0


class TestRoofline:
    def test_a_row_says_what_was_measured(self) -> None:
        record = {
            "isa": "scalar",
            "distribution": "normal",
            "dtype": "float32",
            "instructions": 12.0,
            "cycles": 4.0,
            "melements_per_s": 1000.0,
            "gb_per_s": 4.0,
            "roof_gb_per_s": 16.0,
        }
        expected = "| scalar | normal | float32 | 12.00 | 4.00 | 3.00 | 1000 | 4.0 | 0.25 |"
        assert roofline.row(record) == expected
        assert roofline.row(record | {"instructions": None}).count("| - ") == 2

    @pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
    def test_instructions_are_counted_in_the_kernel(self) -> None:
        """Philox alone is ten rounds of two multiplications for four elements."""
        count = roofline.instructions("scalar", "uniform", "float32")
        assert 20 < count < 200

    def test_clock_is_a_frequency(self) -> None:
        assert 0.1 < roofline.clock_ghz() < 10


def test_demo_shows_times_and_moments(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    demo.main(["--small"])
    shown = capsys.readouterr().out
    for expected in ("fastinit init_weights", "peak / model", "o, down (residual)", "ok"):
        assert expected in shown
    assert "OFF" not in shown


def test_small_quick(tmp_path: Path) -> None:
    file = tmp_path / "small.jsonl"
    small.main(["--quick", "--count", "60", "--rounds", "2", "--output", str(file)])
    machine, *records = map(json.loads, file.read_text().splitlines())
    assert machine["record"] == "machine"
    assert [record["case"] for record in records] == list(small.CASES)
    for record in records:
        assert all(ratio > 0 for ratio in record["ratio"].values())
        assert record["us_each"].keys() - record["ratio"].keys() == {"fastinit"}


def test_build_quick(tmp_path: Path) -> None:
    file = tmp_path / "build.jsonl"
    build.main(["--quick", "--cold", "--rounds", "1", "--output", str(file)])
    machine, record = map(json.loads, file.read_text().splitlines())
    assert machine["record"] == "machine"
    assert record["elements"] == sum(p.numel() for p in build.llama(2, 256, 1000).parameters())
    assert set(record["competitors"]) == {"stock", "build"}
    peaks = [result["peak_over_model"] for result in record["competitors"].values()]
    assert all(peak is None or 0.2 < peak < 5 for peak in peaks)
    assert record["ratio"] > 0
    build.main(["--quick", "--check", "--output", str(file)])
    _, differences = map(json.loads, file.read_text().splitlines())
    assert differences["found"] == []


@pytest.mark.parametrize(
    ("value", "text"), [(2e-5, "20.0 us"), (0.0125, "12.50 ms"), (1.0, "1.00 s"), (2.346, "2.35 s")]
)
def test_seconds_have_a_unit_that_reads_well(value: float, text: str) -> None:
    assert _seconds(value) == text
