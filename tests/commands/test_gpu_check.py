"""`make gpu-check`, as far as a machine without a GPU can tell."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu_check


def carried_out(tmp_path: Path, code: str, seconds: float = 60.0, **more: Any) -> Any:
    step = gpu_check.Step("step", [sys.executable, "-c", code], 0, **more)
    return gpu_check.carry_out(step, tmp_path / "log", seconds)


def test_outcomes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passed = carried_out(tmp_path, "print('one'); print('two')")
    assert (passed["outcome"], passed["last_line"]) == ("passed", "two")
    failed = carried_out(tmp_path, "print('one'); raise SystemExit(3)")
    assert (failed["outcome"], failed["reason"]) == ("failed", "exit status 3")
    assert failed["tail"] == ["one"]
    absent = carried_out(tmp_path, "", needs="no-such-program")
    assert (absent["outcome"], absent["reason"]) == ("skipped", "no no-such-program on PATH")
    for record in (passed, failed, absent):
        gpu_check.show(record)
    assert re.search(r"step: failed in \d+ s: exit status 3", capsys.readouterr().out)


def test_a_step_that_takes_too_long_ends_with_what_it_started(tmp_path: Path) -> None:
    child = "import time; time.sleep(600)"
    code = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        "print(child.pid, flush=True); child.wait()"
    )
    record = carried_out(tmp_path, code, seconds=5.0)
    assert (record["outcome"], record["reason"]) == ("failed", "not done after 5 s")
    pid = int(record["last_line"])
    state = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and ") Z " not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not state.exists() or ") Z " in state.read_text()


def test_the_steps_end_within_ten_minutes(tmp_path: Path) -> None:
    steps = gpu_check.steps("9.0", tmp_path / "bench.jsonl")
    assert [step.name for step in steps] == ["build", "tests", "memcheck", "racecheck", "bench"]
    assert sum(step.seconds for step in steps) < 600


def test_a_failed_step_does_not_keep_the_others_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def steps(capability: str, records: Path) -> list[gpu_check.Step]:
        code = f"open({str(records)!r}, 'w').write('{{}}'); print('the table')"
        return [
            gpu_check.Step("tests", [sys.executable, "-c", f"assert {capability} < 1"], 30),
            gpu_check.Step("bench", [sys.executable, "-c", code], 30),
        ]

    about = {"capability": "9.0"}
    monkeypatch.setattr(gpu_check, "about_machine", lambda: about)
    monkeypatch.setattr(gpu_check, "missing", list)
    monkeypatch.setattr(gpu_check, "steps", steps)
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "gpu.json")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as end:
        gpu_check.main()
    assert end.value.code == 1
    shown = capsys.readouterr().out
    assert "AssertionError" in shown
    assert shown.rstrip().endswith("the table")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("tests.log", "bench.log"),
        *("bench.jsonl", "gpu.json"),
    }
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report == json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [step["outcome"] for step in report["steps"]] == ["failed", "passed"]
    assert (report["machine"], report["bench"]) == (about, [{}])


def test_nothing_is_missing_here() -> None:
    assert set(gpu_check.missing()) <= {"setuptools"}  # which pip brings along when it builds
    assert gpu_check.about_machine()["torch"] == torch.__version__
