"""`make gpu-check`, as far as a machine without a GPU can tell: carried out as a whole with the
stand-in for a driver, and its ways to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_cuda
import pytest
import torch

from bench import gpu_check
from bench.gpu_check import Report, Step, carry_out, run, steps


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    monkeypatch.setattr(gpu_check, "LEAST", 0.1)
    return Report({"capability": "9.0"}, [tmp_path], tmp_path / "gpu-check.log")


def on_disk(report: Report) -> Any:
    return json.loads((report.log.parent / "gpu.json").read_text())


def python(code: str, **more: Any) -> Step:
    return Step("step", [sys.executable, "-c", code], 60, **more)


def is_gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def awaited(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_outcomes(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    passed = carry_out(python("print('one'); print('two')"), report, 60)
    assert (passed["outcome"], passed["last_line"]) == ("passed", "two")
    failed = carry_out(python("print('one'); raise SystemExit(3)"), report, 60)
    assert (failed["outcome"], failed["reason"]) == ("failed", "exit status 3")
    assert failed["tail"] == ["one"]
    absent = carry_out(python("", needs=("pytest", "no-such-thing")), report, 60)
    assert (absent["outcome"], absent["reason"]) == ("skipped", "no no-such-thing")
    late = carry_out(python(""), report, 0.05)
    assert (late["outcome"], late["reason"]) == ("skipped", "no time is left")
    for record in (passed, failed, absent):
        gpu_check.show(record)
    assert re.search(r"step: failed in \d+ s: exit status 3", capsys.readouterr().out)


STARTS_ANOTHER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
"""


def test_a_step_that_takes_too_long_ends_with_what_it_started(report: Report) -> None:
    record = carry_out(python(STARTS_ANOTHER), report, 2)
    assert (record["outcome"], record["reason"]) == ("failed", "not done after 2 s")
    assert awaited(lambda: is_gone(int(record["last_line"])))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_who_ends_it_ends_its_steps(how: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import signal, sys
from pathlib import Path
from bench.gpu_check import Report, Step, run
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, signal.default_int_handler)
report = Report({{}}, [Path({str(tmp_path)!r})], Path({str(tmp_path / "log")!r}))
run([Step("step", [sys.executable, "-c", "import os, time; print(os.getpid()); time.sleep(600)"],
          100)], report)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=gpu_check.ROOT)
    log = tmp_path / "log"

    def told() -> re.Match[str] | None:  # a whole line: it may be there in part
        return re.search(r"(\d+)\n$", log.read_text()) if log.exists() else None

    assert awaited(lambda: told() is not None)
    (pid,) = map(int, told().groups())  # type: ignore[union-attr]
    process.send_signal(how)
    process.wait(60)
    assert awaited(lambda: is_gone(pid))


def test_records_are_on_disk_while_a_step_runs(report: Report, tmp_path: Path) -> None:
    code = """
import sys, time
with open(sys.argv[-1], "w") as file:
    print('{"n": 1}', file=file, flush=True)
    print('{"n": 2', end="", file=file, flush=True)
    time.sleep(600)
"""
    record = carry_out(python(code, records=True), report, 2)
    assert record["outcome"] == "failed"
    assert on_disk(report)["records"] == [{"n": 1}]


def test_what_happens_after_a_failure(report: Report) -> None:
    again = Step("again", [sys.executable, "-c", "print('by NVRTC')"], 9)
    every = [
        python("raise SystemExit(1)", otherwise=again),
        Step("next", [sys.executable, "-c", "print('goes on')"], 9),
    ]
    assert run(every, report)
    assert [(s["step"], s["outcome"]) for s in on_disk(report)["steps"]] == [
        ("step", "failed"),
        ("again", "passed"),
        ("next", "passed"),
    ]


def test_a_difference_ends_it(report: Report) -> None:
    code = f"import sys; sys.exit('bench.gpu_equal: {gpu_check.DIFFERENCE}: normals')"
    assert not run([python(code), python("print('how fast')")], report)
    assert [s["outcome"] for s in on_disk(report)["steps"]] == ["failed"]


def test_the_limit_of_all(report: Report) -> None:
    sleeps = python("import time; time.sleep(600)")
    start = time.monotonic()
    assert not run([sleeps, sleeps], report, limit=1)
    assert time.monotonic() - start < 30
    assert [s["outcome"] for s in on_disk(report)["steps"]] == ["failed", "skipped"]


def test_boxes() -> None:
    every = steps("9.0")
    assert [s.name for s in every[:6]] == [
        "build",
        "equal",
        "single",
        "models",
        "tests",
        "memcheck",
    ]
    assert sum(step.seconds for step in every[:6]) < gpu_check.LIMIT


@pytest.mark.skipif(torch.cuda.is_available(), reason="a real driver is in place")
def test_the_whole_with_a_stand_in(
    fake_driver: fake_cuda.FakeDriver,
    report: Report,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that measures and compares, on tensors of the CPU."""
    before = os.environ.get("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{fake_driver.path.parent}:{before}")
    every = {step.name: step for step in steps("9.0", device="cpu", quick=True)}
    start = time.monotonic()
    assert run([every[name] for name in ("equal", "single", "models", "more")], report)
    assert time.monotonic() - start < gpu_check.LIMIT
    found = on_disk(report)
    assert [step["outcome"] for step in found["steps"]] == ["passed"] * 4
    assert all(step["seconds"] > 0 for step in found["steps"])
    kinds = [record["record"] for record in found["records"]]
    counted = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    assert counted == {
        "equal": 5,
        "error": 1,  # the primitives, for which there is no stand-in
        "fill": 9,
        "layout": 6,
        "model": 2,
        "many": 1,
        "call": 1,
        "graph": 1,
        "cold": 1,
        "tiles": 3,
    }
    assert len(list(tmp_path.iterdir())) <= 8


def test_a_difference_is_found(
    fake_driver: fake_cuda.FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import gpu_equal

    def fill(table: Any) -> None:
        gpu_equal.cpu_fill([(*row[:3], row[3] + 1, *row[4:]) for row in table])

    monkeypatch.setattr(gpu_equal, "gpu_fill", lambda device: fill)
    with pytest.raises(gpu_equal.Difference, match=r"uniform in torch.float32, 1 from 0"):
        list(gpu_equal.check_layouts(torch.device("cpu")))
    with pytest.raises(gpu_equal.Difference, match="normals of float32 from index 0 on"):
        gpu_equal.check_stream(torch.device("cpu"), 100, 50)


def test_about_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "ROOT", Path("/"))
    monkeypatch.setenv("COMMIT", "abc")
    about = gpu_check.about_machine()
    assert about["torch"] == torch.__version__
    assert about["commit"] == "abc"
