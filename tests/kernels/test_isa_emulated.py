"""Instruction sets that this machine lacks, in software: AVX-512 by SIMDe, AArch64 by QEMU. The
same source as in the extension, against scalar code, and the same values on both processors."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from fastinit import _C

ROOT = Path(__file__).parents[2]
SIMDE = Path("/usr/include/simde/x86/avx512.h")
# Of so many random segments of every kind and dtype: as frozen as the vectors of stream v1.
DIGESTS = {10_000: "7ac43961ceadf7f5", 1_000: "c51c2f5098203048"}


def emulated(target: str, build: Path, segments: int) -> str:
    """What `make TARGET` prints."""
    make = shutil.which("make")
    assert make
    done = subprocess.run(
        [make, "-s", "-C", str(ROOT), target, f"BUILD={build}", f"SEGMENTS={segments}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^emulate-(\w+):", MAKEFILE, re.MULTILINE)
TOOLS = {
    "avx512": (SIMDE.exists() and "x86_64" in sysconfig.get_platform(), "SIMDe (libsimde-dev)"),
    "neon": (
        bool(shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
        "a cross compiler and QEMU (g++-aarch64-linux-gnu, qemu-user)",
    ),
}


@pytest.mark.parametrize("isa", TARGETS)
def test_emulated_equals_scalar(isa: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if isa in _C.isas():
        pytest.skip("the real instructions are tested everywhere else")
    can_run, tools = TOOLS.get(isa, (True, ""))
    if not can_run:
        pytest.skip(f"needs {tools}")
    segments = 10_000 if request.config.getoption("--thorough") else 1_000
    printed = emulated(f"emulate-{isa}", tmp_path, segments)
    assert f"{isa} equals scalar in" in printed
    assert DIGESTS[segments] in printed
    drivers = [line for line in printed.splitlines() if line.startswith("fill_test")]
    assert all(f"are right on {isa} scalar" in line for line in drivers)
