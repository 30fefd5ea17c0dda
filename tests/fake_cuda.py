"""The stand-in for a CUDA driver (tests/native/fake_cuda.cpp): built, and put in the driver's place.

Its GPU is this process, its memory the process's own, so that the whole native path to a GPU runs
everywhere, with the kernel's body compiled for the host.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

NATIVE = Path(__file__).parent / "native"


class Launch(ctypes.Structure):
    """One launch: what it was told, and how many bytes its threads wrote."""

    _fields_ = (
        ("stream", ctypes.c_uint64),
        ("blocks", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("written", ctypes.c_int64),
        ("device", ctypes.c_int32),
        ("is_inline", ctypes.c_int32),
    )


class FakeDriver:
    """The driver, as the tests see it: device 0 and 1 exist."""

    def __init__(self, path: Path) -> None:
        # By its soname, dlopen("libcuda.so.1") now finds this one.
        self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._library.fake_launches.restype = ctypes.c_int64
        self._library.fake_stack.restype = ctypes.c_int64
        self._library.fake_launch.restype = Launch
        self._library.fake_launch.argtypes = (ctypes.c_int64,)
        self._library.fake_loaded_relaxed.restype = ctypes.c_bool

    def reset(self) -> None:
        self._library.fake_reset()

    def fail(self, function: str, code: int) -> None:
        """Let a function of the driver return a code from now on."""
        self._library.fake_fail(function.encode(), code)

    @property
    def launches(self) -> list[Launch]:
        return [self._library.fake_launch(n) for n in range(self._library.fake_launches())]

    @property
    def contexts(self) -> int:
        """How many contexts this thread has entered and not left."""
        return int(self._library.fake_stack())

    @property
    def capture_mode(self) -> int:
        return int(self._library.fake_capture_mode())

    @property
    def loaded_relaxed(self) -> bool:
        return bool(self._library.fake_loaded_relaxed())


def build(folder: Path) -> Path:
    """Compile the driver with the flags of the kernels' reference: no contraction."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or "clang++"
    target = folder / "libcuda.so.1"
    flags = "-std=c++17 -O2 -shared -fPIC -ffp-contract=off -Wall -Wextra -Werror"
    link = f"-Wl,-soname,{target.name}"
    command = [*compiler.split(), *flags.split(), link, str(NATIVE / "fake_cuda.cpp")]
    subprocess.run([*command, "-o", str(target)], check=True)
    return target
