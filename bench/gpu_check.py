"""Everything that needs a GPU, in one command of some minutes: what it writes, then how fast.

    make gpu-check                  or    python -m bench.gpu_check

Uses the Python that runs it, with its torch, and nvcc or NVRTC; nothing is installed. The extension
is built in place for the GPU at hand. Each step has a box of seconds, what others left over comes
on top, and 400 seconds end it all. Each record is on disk at once, in bench/results/gpu.json, or
also in the folder that the environment variable OUT names. A step that fails, or lacks something,
does not keep the others from running; but values that are not the CPU's end it. A commit is told by
the environment variable COMMIT where there is no git.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "gpu.json"
LIMIT = 400  # seconds, of all
LEAST = 5  # seconds for which a step is begun
TAIL = 40  # lines of a failed step's output that are kept with the results
DIFFERENCE = "not what the CPU writes"  # in the last line of bench.gpu_equal and bench.gpu
PYTEST = ("-m", "pytest", "tests/gpu", "--confcutdir=tests/gpu", "-p", "no:cacheprovider", "-q")
SANITIZER = (
    "compute-sanitizer",
    "--error-exitcode=1",
    "--kernel-name=kns=fastinit",
    "--launch-timeout=0",
    "--tool=memcheck",
    "--padding=64",
    "--report-api-errors=no",
)
# Without a cache each tensor is an allocation of its own, whose bounds memcheck knows.
SANITIZED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
# Three kernels of one process under the profiler.
PROFILER = ("ncu", "--kernel-name", "fastinit_fill", "--launch-count", "3", "--set", "basic")
PROFILED = """
import torch, fastinit
x = torch.empty(1 << 28, device="cuda")
fastinit.init.uniform_(x); fastinit.init.normal_(x); fastinit.init.trunc_normal_(x)
torch.cuda.synchronize()
"""
# What is asked of the machine without importing fastinit.
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

    Attributes:
        name: in the records.
        command: the command.
        seconds: its box.
        environment: variables.
        needs: a program and Python packages, without which the step is not run.
        records: whether it writes JSON lines where `--output` says.
        keeps_tail: whether the end of its output is a result.
        otherwise: what to run if it fails.
    """

    name: str
    command: Sequence[str]
    seconds: int
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()
    records: bool = False
    keeps_tail: bool = False
    otherwise: Step | None = None


def steps(capability: str, device: str = "cuda", quick: bool = False) -> list[Step]:
    """Return what is run, for a GPU of a compute capability such as "9.0"."""
    python = sys.executable
    build = [python, "setup.py", "-q", "build_ext", "--inplace"]
    for_the_gpu = {"FASTINIT_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capability}
    by_nvrtc = Step("build, NVRTC", build, 40, {"FASTINIT_CUDA": "0"}, needs=("setuptools",))
    few = ["--quick"] if quick else []
    small = [*few, "--elements", "65536", "--rounds", "2"] if quick else []
    bench = [python, "-m", "bench.gpu", "--device", device, *small, "--part"]
    needs = ("pytest", "numpy", "safetensors")
    equal = [python, "-m", "bench.gpu_equal", "--device", device, *few]
    tests = [python, *PYTEST, "--maxfail=5", "-rs", "--durations=10"]
    memcheck = [*SANITIZER, python, *PYTEST, "-x", "-m", "sanitized"]
    return [
        Step("build", build, 50, for_the_gpu, needs=("setuptools",), otherwise=by_nvrtc),
        Step("equal", equal, 45, records=True),
        Step("single", [*bench, "single"], 60, records=True),
        Step("models", [*bench, "models"], 60, records=True),
        Step("tests", tests, 100, needs=needs),
        Step("memcheck", memcheck, 50, SANITIZED, needs=(SANITIZER[0], *needs)),
        Step("more", [*bench, "more"], 60, records=True),
        Step(
            "profile",
            [*PROFILER, python, "-c", PROFILED],
            60,
            needs=(PROFILER[0],),
            keeps_tail=True,
        ),
    ]


class Report:
    """What is found, on disk at any time.

    Args:
        machine: about the machine.
        folders: where gpu.json goes.
        log: the file of all output.
    """

    def __init__(self, machine: Mapping[str, Any], folders: Sequence[Path], log: Path) -> None:
        self.content: dict[str, Any] = {"machine": dict(machine), "steps": [], "records": []}
        self._folders = folders
        self.log = log
        self.write()

    def write(self) -> None:
        text = json.dumps(self.content, indent=1) + "\n"
        for folder in self._folders:
            part = folder / f".{RESULTS.name}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(folder / RESULTS.name)

    def take(self, file: Path, have: int) -> int:
        """Take the JSON lines of a file from byte `have` on; return how many bytes there are."""
        if not file.exists():
            return have
        whole, _, _ = file.read_bytes()[have:].rpartition(b"\n")
        lines = whole.splitlines()
        if lines:
            self.content["records"] += [json.loads(line) for line in lines]
            self.write()
        return have + len(whole) + bool(lines)


def carry_out(step: Step, report: Report, seconds: float) -> dict[str, Any]:
    """Run one step for `seconds` at most, its output going to the log; return its record."""
    record: dict[str, Any] = {"step": step.name, "command": " ".join(step.command)}
    lacking = [name for name in step.needs if not _has(name)]
    if lacking:
        return {**record, "outcome": "skipped", "reason": f"no {', '.join(lacking)}"}
    if seconds < LEAST:
        return {**record, "outcome": "skipped", "reason": "no time is left"}
    start, taken = time.perf_counter(), len(report.content["records"])
    lines_file = report.log.with_name("records.jsonl")
    lines_file.unlink(missing_ok=True)
    command = [*step.command, *(("--output", str(lines_file)) if step.records else ())]
    with report.log.open("a+", encoding="utf-8", errors="replace") as log:
        print(f"\n=== {step.name}", file=log, flush=True)
        begin = log.tell()
        look = partial(report.take, lines_file)
        status = run_limited(step, command, log, seconds, look)
        log.seek(begin)
        lines = log.read().splitlines()
    record["seconds"] = round(time.perf_counter() - start, 1)
    record["last_line"] = lines[-1] if lines else ""
    own = report.content["records"][taken:]
    record["errors"] = sum(each.get("record") == "error" for each in own)
    if step.keeps_tail:
        record["tail"] = lines[-TAIL:]
    if status == 0:
        return {**record, "outcome": "passed"}
    reason = f"exit status {status}" if status is not None else f"not done after {seconds:.0f} s"
    return {**record, "outcome": "failed", "reason": reason, "tail": lines[-TAIL:]}


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None or shutil.which(name) is not None


def run_limited(
    step: Step, command: Sequence[str], log: Any, seconds: float, look: Callable[[int], int]
) -> int | None:
    """Return the exit status, or None if the step and all that it started had to be killed."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **step.environment},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    end, have = time.monotonic() + seconds, 0
    try:
        while True:
            try:
                status: int | None = process.wait(min(1.0, max(end - time.monotonic(), 0.01)))
                break
            except subprocess.TimeoutExpired:
                have = look(have)
                if time.monotonic() >= end:
                    status = None
                    break
    finally:  # also where this process is told to end
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        look(have)
    return status


def _end_with_parent() -> None:
    """Let Linux kill this process when its parent has gone, however that was."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def about_machine() -> dict[str, Any]:
    """Return versions, devices and driver."""
    asked = ["nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
    driver, _, capability = output_of(asked).partition("\n")[0].partition(", ")
    torch = output_of([sys.executable, "-c", ASK_TORCH], 90)  # its first import may take long
    return {
        **({"capability": capability} if capability else {}),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        **json.loads(torch or "{}"),
        "driver": driver or None,
        "nvcc": output_of(["nvcc", "--version"]).splitlines()[-2:],
        "commit": output_of(["git", "rev-parse", "HEAD"]) or os.environ.get("COMMIT"),
    }


def output_of(command: Sequence[str], seconds: float = 20) -> str:
    """Return what a command prints; nothing, but a line for a person, if it fails or hangs."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds
        )
    except (OSError, subprocess.SubprocessError) as error:
        print(f"gpu-check: {error}", file=sys.stderr, flush=True)
        return ""
    return done.stdout.strip()


def find_cuda_tools() -> None:
    """Put CUDA's programs on PATH, where they are often not."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", os.defpath), *(f"{home}/bin" for home in homes if home)]
    os.environ["PATH"] = os.pathsep.join(folders)


def show(record: Mapping[str, Any]) -> None:
    """Print a step's outcome, for a person."""
    seconds = f" in {record['seconds']:.0f} s" if "seconds" in record else ""
    print(f"{record['step']}: {record['outcome']}{seconds}: ", end="")
    errors = f"{record['errors']} rows failed; " if record.get("errors") else ""
    print(errors + (record.get("reason") or record["last_line"]), flush=True)
    for line in record.get("tail", ()):
        print("    " + line)


def run(every: Sequence[Step], report: Report, limit: float = LIMIT) -> bool:
    """Run the steps; return whether none has failed. Values that differ end it."""
    begin = time.monotonic()
    end, passed = begin, True
    for step in every:
        end += step.seconds
        left = min(end, begin + limit) - time.monotonic()
        record = carry_out(step, report, left)
        if record["outcome"] == "failed" and step.otherwise is not None:
            report.content["steps"].append(record)
            show(record)
            left = min(step.otherwise.seconds, begin + limit - time.monotonic())
            record = carry_out(step.otherwise, report, left)
        report.content["steps"].append(record)
        report.write()
        show(record)
        passed = passed and record["outcome"] != "failed"
        if DIFFERENCE in record.get("last_line", ""):
            return False
    return passed


def main() -> None:
    """Run all steps; the exit status is 1 if one of them failed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))  # which ends the running step
    find_cuda_tools()
    machine = about_machine()
    if "capability" not in machine:
        sys.exit(f"gpu-check: torch {machine.get('torch')} finds no CUDA device")
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    out = Path(os.environ.get("OUT") or ROOT / "build" / "gpu-check")
    out.mkdir(parents=True, exist_ok=True)
    log = out / "gpu-check.log"
    log.unlink(missing_ok=True)  # of an earlier run
    report = Report(machine, [RESULTS.parent, out], log)
    sys.exit(0 if run(steps(machine["capability"]), report) else 1)


if __name__ == "__main__":
    main()
