"""The stand-in for a CUDA driver (tests/native/fake_cuda.cpp): built, and put in its place.

Its GPU is this process, its memory the process's own, so that the whole native path to a GPU runs
everywhere, with the kernel's body compiled for the host.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from fastinit import _C
from fastinit.tensors import torch_private

NATIVE = Path(__file__).parents[1] / "native"


class Launch(ctypes.Structure):
    """One launch: what it was told, and how many bytes its threads wrote in how many writes."""

    _fields_ = (
        ("stream", ctypes.c_uint64),
        ("blocks", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("written", ctypes.c_int64),
        ("writes", ctypes.c_int64),
        ("device", ctypes.c_int32),
        ("is_inline", ctypes.c_int32),
    )


class FakeDriver:
    """The driver, as the tests see it: device 0 and 1 exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # By its soname, dlopen("libcuda.so.1") now finds this one.
        self._library = ctypes.CDLL(str(path))
        self._library.fake_launches.restype = ctypes.c_int64
        self._library.fake_stack.restype = ctypes.c_int64
        self._library.fake_launch.restype = Launch
        self._library.fake_launch.argtypes = (ctypes.c_int64,)
        self._library.fake_loaded_relaxed.restype = ctypes.c_bool
        self._library.fake_capture.argtypes = (ctypes.c_uint64,)
        self._library.fake_put.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._library.fake_exchange.restype = ctypes.c_void_p
        self._library.fake_exchange.argtypes = (ctypes.c_void_p,)

    def forget(self) -> None:
        """Forget the launches so far."""
        self._library.fake_forget()

    def fail(self, function: str, code: int) -> None:
        """Let a function of the driver, or "" for none, return a code from now on."""
        self._library.fake_fail(function.encode(), code)

    def capture(self, stream: int | None) -> None:
        """Let a stream be one that is being captured; None for none."""
        self._library.fake_capture(2**64 - 1 if stream is None else stream)

    def dry(self, is_dry: bool) -> None:
        """Let launches be noted and not carried out."""
        self._library.fake_dry(is_dry)

    def put_all(self, device: int) -> None:
        """Let all tensors be described as a device's; -1: as they are."""
        self._library.fake_put_all(device)

    def put(self, address: int, device: int) -> None:
        """Let the tensors that begin at an address be described as another device's."""
        self._library.fake_put(address, device)

    @property
    def exchange(self) -> Any:
        """Torch's exchange table of DLPack, by which tensors are where `put` says: a capsule."""
        name = b"dlpack_exchange_api"
        api = ctypes.pythonapi
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
        api.PyCapsule_New.restype = ctypes.py_object
        api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        torchs = torch_private.for_recorder()["exchange"]
        table = self._library.fake_exchange(api.PyCapsule_GetPointer(torchs, name))
        return api.PyCapsule_New(table, name, None)

    @property
    def pointers_asked(self) -> int:
        """How often it was asked where memory is."""
        return int(self._library.fake_pointers_asked())

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


_installed: FakeDriver | None = None


def install(folder: Path) -> FakeDriver:
    """Build the driver in `folder`, put it in place, and load the kernel on its devices."""
    global _installed
    _installed = FakeDriver(build(folder))
    for device in (0, 1):
        _C.cuda_load(device, b"the body is part of the driver")
    return _installed


def driver() -> FakeDriver:
    """The one in place."""
    assert _installed is not None, "ask for the fixture fake_driver"
    return _installed


def build(folder: Path) -> Path:
    """Compile the driver with the flags of the kernels' reference: no contraction."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or "clang++"
    target = folder / "libcuda.so.1"
    flags = "-std=c++17 -O2 -shared -fPIC -ffp-contract=off -Wall -Wextra -Werror"
    link = f"-Wl,-soname,{target.name}"
    command = [*compiler.split(), *flags.split(), link, str(NATIVE / "fake_cuda.cpp")]
    subprocess.run([*command, "-o", str(target)], check=True)
    return target


def run(path: Path, code: str) -> str:
    """What `code` prints in a process of its own, with `driver` in place and nothing loaded."""
    setup = f"""
        from pathlib import Path
        import fake_cuda
        from fastinit import _C
        driver = fake_cuda.FakeDriver(Path({str(path)!r}))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(setup) + textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
