"""Instruction sets that this machine lacks, in software: AVX-512 by SIMDe, AArch64 by QEMU. The
same source as in the extension, against scalar code, and the same values on both processors."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from fastinit import _C

ROOT = Path(__file__).parents[2]
SIMDE = Path("/usr/include/simde/x86/avx512.h")
# Of 10000 random segments of every kind and dtype: as frozen as the vectors of stream v1.
DIGEST = "7ac43961ceadf7f5"


def emulated(target: str, build: Path) -> str:
    """What `make TARGET` prints."""
    make = shutil.which("make")
    assert make
    done = subprocess.run(
        [make, "-s", "-C", str(ROOT), target, f"BUILD={build}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(
    "avx512" in _C.isas(), reason="the real instructions are tested everywhere else"
)
@pytest.mark.skipif(not SIMDE.exists(), reason="needs SIMDe (Debian: libsimde-dev)")
@pytest.mark.skipif("x86_64" not in sysconfig.get_platform(), reason="x86-64 only")
def test_avx512_equals_scalar_in_emulation(tmp_path: Path) -> None:
    printed = emulated("emulate-avx512", tmp_path)
    assert "avx512 equals scalar in" in printed
    assert DIGEST in printed


@pytest.mark.skipif("neon" in _C.isas(), reason="the real instructions are tested everywhere else")
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs a cross compiler and QEMU (Debian: g++-aarch64-linux-gnu, qemu-user)",
)
def test_neon_equals_scalar_in_emulation(tmp_path: Path) -> None:
    printed = emulated("emulate-neon", tmp_path)
    assert "neon equals scalar in" in printed
    assert DIGEST in printed
    assert "are right on neon scalar" in printed
