"""Everything that needs a GPU, in one command: build, tests, sanitizers, benchmark.

    make gpu-check                  or    python -m bench.gpu_check

Uses the Python that runs it, with its torch, pytest and numpy, and nvcc; nothing is installed. The
extension is built in place for the GPU at hand. Each step runs whatever became of those before it;
what they found is kept in bench/results/gpu.json, and their output in build/gpu-check/, or in the
folder that the environment variable OUT names, which then gets a copy of the JSON too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "gpu.json"
TAIL = 40  # lines of a failed step's output that are shown and kept with the results
PYTEST = ("-m", "pytest", "tests/gpu", "--confcutdir=tests/gpu", "-p", "no:cacheprovider")
SANITIZER = (
    "compute-sanitizer",
    "--error-exitcode=1",
    "--kernel-name=kns=fastinit",
    "--launch-timeout=0",
)
# Without a cache each tensor is an allocation of its own, whose bounds memcheck knows.
SANITIZED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
# What `python -m bench.gpu_check` asks of the machine without importing fastinit.
ASK_TORCH = """
import json, torch
about = {"torch": torch.__version__, "cuda": torch.version.cuda}
if torch.cuda.is_available():
    about["devices"] = [
        torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())
    ]
    about["capability"] = "%d.%d" % torch.cuda.get_device_capability(0)
print(json.dumps(about))
"""


@dataclass(frozen=True)
class Step:
    """A command to run, `environment` on top of this process's.

    It may take `seconds`, and what those before it left over.
    """

    name: str
    command: Sequence[str]
    seconds: int
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""  # a program without which the step is not run


def steps(capability: str, records: Path) -> list[Step]:
    """What is run, for a GPU of a compute capability such as "9.0": in less than ten minutes."""
    python = sys.executable
    for_the_gpu = {"FASTINIT_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capability}
    small = [python, *PYTEST, "-q", "-x", "-m", "sanitized"]
    memcheck = [*SANITIZER, "--tool=memcheck", "--padding=64", "--report-api-errors=no"]
    racecheck = [*SANITIZER, "--tool=racecheck"]
    return [
        Step("build", [python, "setup.py", "build_ext", "--inplace"], 150, for_the_gpu),
        Step("tests", [python, *PYTEST, "-q", "-rs", "--durations=10"], 140),
        Step("memcheck", [*memcheck, *small], 90, SANITIZED, needs=SANITIZER[0]),
        Step("racecheck", [*racecheck, *small], 90, SANITIZED, needs=SANITIZER[0]),
        Step("bench", [python, "-m", "bench.gpu", "--output", str(records)], 100),
    ]


def carry_out(step: Step, log: Path, seconds: float) -> dict[str, Any]:
    """Runs one step for `seconds` at most, its output going to a file; the record of it."""
    record: dict[str, Any] = {"step": step.name, "command": " ".join(step.command)}
    if step.needs and shutil.which(step.needs) is None:
        return {**record, "outcome": "skipped", "reason": f"no {step.needs} on PATH"}
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        status = run_limited(step, stream, seconds)
    record["seconds"] = round(time.perf_counter() - start, 1)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    record["last_line"] = lines[-1] if lines else ""
    if status == 0:
        return {**record, "outcome": "passed"}
    reason = f"exit status {status}" if status is not None else f"not done after {seconds:.0f} s"
    return {**record, "outcome": "failed", "reason": reason, "tail": lines[-TAIL:]}


def run_limited(step: Step, stream: Any, seconds: float) -> int | None:
    """The exit status, or None if the step and all that it started had to be killed."""
    process = subprocess.Popen(
        step.command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **step.environment},
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def about_machine() -> dict[str, Any]:
    """Versions, devices and driver."""
    torch = output_of([sys.executable, "-c", ASK_TORCH])
    driver = output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        **json.loads(torch or "{}"),
        "driver": driver.splitlines()[0] if driver else None,
        "nvcc": output_of(["nvcc", "--version"]).splitlines()[-2:],
        "commit": output_of(["git", "rev-parse", "HEAD"]) or None,
    }


def output_of(command: Sequence[str]) -> str:
    """What a command prints; nothing if it fails or does not exist."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def missing() -> list[str]:
    """What this Python lacks for the steps."""
    packages = ["torch", "numpy", "pytest", "setuptools", "safetensors"]
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    if importlib.util.find_spec("ninja") is None and shutil.which("ninja") is None:
        lacking.append("ninja")
    return lacking


def find_cuda_tools() -> None:
    """Puts CUDA's programs on PATH, where they are often not."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", os.defpath), *(f"{home}/bin" for home in homes if home)]
    os.environ["PATH"] = os.pathsep.join(folders)


def bench_records(file: Path) -> list[dict[str, Any]]:
    """What the benchmark had measured when it ended."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(report: Mapping[str, Any], logs: Path) -> None:
    """Keeps the report, also next to the logs."""
    text = json.dumps(report, indent=1) + "\n"
    RESULTS.write_text(text, encoding="utf-8")
    (logs / RESULTS.name).write_text(text, encoding="utf-8")


def show(record: Mapping[str, Any]) -> None:
    """A step's outcome, for a person."""
    seconds = f" in {record['seconds']:.0f} s" if "seconds" in record else ""
    print(f"{record['step']}: {record['outcome']}{seconds}: ", end="")
    print(record.get("reason") or record["last_line"], flush=True)
    for line in record.get("tail", ()):
        print("    " + line)


def main() -> None:
    """Runs all steps; the exit status is 1 if one of them failed."""
    lacking = missing()
    if lacking:
        sys.exit(
            f"gpu-check: {sys.executable} lacks {', '.join(lacking)}; another Python is chosen by "
            "make gpu-check GPU_PYTHON=..."
        )
    find_cuda_tools()
    machine = about_machine()
    if "capability" not in machine:
        sys.exit(f"gpu-check: torch {machine.get('torch')} finds no CUDA device")
    logs = Path(os.environ.get("OUT") or ROOT / "build" / "gpu-check")
    logs.mkdir(parents=True, exist_ok=True)
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    report: dict[str, Any] = {"machine": machine, "steps": [], "bench": []}
    records = logs / "bench.jsonl"
    records.unlink(missing_ok=True)  # of an earlier run
    end = time.monotonic()
    for step in steps(machine["capability"], records):
        end += step.seconds
        record = carry_out(step, logs / f"{step.name}.log", end - time.monotonic())
        report["steps"].append(record)
        report["bench"] = bench_records(records)
        write(report, logs)
        show(record)
    log = logs / "bench.log"
    print(log.read_text(encoding="utf-8") if log.exists() else "", flush=True)
    sys.exit(int(any(record["outcome"] == "failed" for record in report["steps"])))


if __name__ == "__main__":
    main()
