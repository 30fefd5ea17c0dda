"""AVX-512 against scalar where there is none: the same source, its intrinsics in software."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from fastinit import _C

ROOT = Path(__file__).parent.parent
SIMDE = Path("/usr/include/simde/x86/avx512.h")


@pytest.mark.skipif(
    "avx512" in _C.isas(), reason="the real instructions are tested everywhere else"
)
@pytest.mark.skipif(not SIMDE.exists(), reason="needs SIMDe (Debian: libsimde-dev)")
@pytest.mark.skipif("x86_64" not in sysconfig.get_platform(), reason="x86-64 only")
def test_avx512_equals_scalar_in_emulation(tmp_path):
    make = shutil.which("make")
    assert make
    build = f"BUILD={tmp_path}"
    done = subprocess.run(
        [make, "-s", "-C", str(ROOT), "emulate-avx512", build], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "avx512 equals scalar in" in done.stdout
