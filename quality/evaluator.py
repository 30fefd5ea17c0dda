"""The kernels' arithmetic on words of one's choice: builds quality/evaluate.cpp and calls it."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastinit import _C

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "quality"
FLAGS = "-std=c++17 -O3 -fPIC -shared -ffp-contract=off -fno-math-errno -fvisibility=default"
WIDE_FLAGS = "-mavx2 -mfma -mf16c"  # as setup.py has them

LOG_RADIUS, COS_SIN = 100, 101

U32 = NDArray[np.uint32]
RAW: dict[int, np.dtype[Any]] = {
    _C.FLOAT32: np.dtype(np.float32),
    _C.FLOAT64: np.dtype(np.float64),
    _C.FLOAT16: np.dtype(np.float16),
    _C.BFLOAT16: np.dtype(np.uint16),
}


@dataclass(frozen=True)
class Function:
    """What is evaluated: a kind of fill or half of one, an element type, and the parameters."""

    kind: int
    dtype: int = _C.FLOAT32
    parameters: tuple[float, ...] = ()

    @property
    def padded(self) -> Any:
        values = self.parameters + (0.0,) * (4 - len(self.parameters))
        return (ctypes.c_double * 4)(*values)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The evaluator, compiled again when its source or csrc/ is newer."""
    sources = [ROOT / "quality" / "evaluate.cpp", ROOT / "csrc" / "table" / "parameters.cpp"]
    headers = list((ROOT / "csrc").rglob("*.h"))
    wide = "avx2" in _C.isas()
    target = BUILD / f"evaluate-{'avx2' if wide else 'scalar'}-{platform.machine()}.so"
    newest = max(path.stat().st_mtime for path in [*sources, *headers])
    if not target.exists() or target.stat().st_mtime < newest:
        compiler = (os.environ.get("CXX") or shutil.which("c++") or "g++").split()
        BUILD.mkdir(parents=True, exist_ok=True)
        # Renamed into place, for test processes that come at the same time.
        fresh = target.with_suffix(f".{os.getpid()}")
        flags = f"{FLAGS} {WIDE_FLAGS}" if wide else FLAGS
        subprocess.run(
            [*compiler, *flags.split(), *map(str, sources), "-o", str(fresh)], check=True
        )
        fresh.replace(target)
    loaded = ctypes.CDLL(str(target))
    loaded.lanes.restype = ctypes.c_char_p
    loaded.compare.restype = ctypes.c_int64
    return loaded


def lanes() -> str:
    """The instruction set that the evaluator was built for."""
    name: bytes = library().lanes()
    return name.decode()


def evaluate(function: Function, words: U32) -> NDArray[Any]:
    """The elements that a fill would make of these words: four words to a block, so that fp64 has
    half as many elements as words. bf16 comes as its bits."""
    native = library()
    step = 4 * native.block_multiple()
    padded = np.ascontiguousarray(words, dtype=np.uint32)
    if len(words) % step:
        padded = np.concatenate([padded, np.zeros(step - len(words) % step, dtype=np.uint32)])
    dtype = RAW[function.dtype]
    per_element = 2 if dtype.itemsize == 8 else 1
    out = np.empty(len(padded) // per_element, dtype=dtype)
    done = native.evaluate(
        function.kind,
        function.dtype,
        function.padded,
        ctypes.c_void_p(padded.ctypes.data),
        ctypes.c_int64(len(padded) // 4),
        ctypes.c_void_p(out.ctypes.data),
    )
    if not done:
        raise ValueError(f"refused: {function}")
    return out[: len(words) // per_element]


def extremes(function: Function, first: int, count: int) -> tuple[float, float]:
    """The smallest and the largest element over the words [first, first + count); NaN if a NaN
    occurs. `count` is a multiple of 2**16."""
    keys = (ctypes.c_uint64 * 2)()
    done = library().extremes(
        function.kind,
        function.dtype,
        function.padded,
        ctypes.c_uint64(first),
        ctypes.c_uint64(count),
        keys,
    )
    if not done:
        raise ValueError(f"refused: {function}")
    low, high = (_from_key(int(key), function.dtype) for key in keys)
    return low, high


def _from_key(key: int, dtype: int) -> float:
    width = 8 * RAW[dtype].itemsize
    top = 1 << (width - 1)
    bits = key ^ top if key & top else key ^ ((1 << width) - 1)
    if dtype == _C.BFLOAT16:
        return float(np.uint32(bits << 16).view(np.float32))
    raw = np.uint16(bits) if width == 16 else np.uint32(bits)
    return float(raw.view(RAW[dtype]))


def compare(
    values: NDArray[np.float32], exact: NDArray[np.float64], floor: float
) -> tuple[float, int, float]:
    """Largest error in ulp of the exact value (of `floor` where that is larger), its index, and the
    sum of all errors. A multiple of 1024 of them."""
    largest, total = ctypes.c_double(), ctypes.c_double()
    values, exact = np.ascontiguousarray(values), np.ascontiguousarray(exact)
    at = library().compare(
        ctypes.c_void_p(values.ctypes.data),
        ctypes.c_void_p(exact.ctypes.data),
        ctypes.c_int64(exact.size),
        ctypes.c_double(max(floor, 2.0**-126)),
        ctypes.byref(largest),
        ctypes.byref(total),
    )
    return largest.value, int(at), total.value


def quantile_errors(
    window: tuple[float, float], bits: NDArray[np.uint64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """value less exact quantile of (bits + 1/2) 2**-53 in the window, from long double."""
    errors = np.empty(len(values))
    bits, values = np.ascontiguousarray(bits), np.ascontiguousarray(values)
    library().quantile_errors(
        ctypes.c_double(window[0]),
        ctypes.c_double(window[1]),
        ctypes.c_void_p(bits.ctypes.data),
        ctypes.c_void_p(values.ctypes.data),
        ctypes.c_int64(len(values)),
        ctypes.c_void_p(errors.ctypes.data),
    )
    return errors
