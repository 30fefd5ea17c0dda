"""The CUDA kernel compiled at run time, if the build has none for the GPU.

NVRTC comes with torch's CUDA wheels, and so do NVIDIA's bindings to it (`cuda-bindings`, since
torch 2.10; `pip install cuda-bindings` for others).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

FLAGS = (
    "--std=c++17",
    "--fmad=false",
    "--disable-warnings",
    "--device-as-default-execution-space",  # of lambdas, which NVRTC 12.4 takes for the host's
)


class Unusable(RuntimeError):
    """NVRTC, or its bindings, are missing or too old, or it fails."""


def compiled(source: str, capability: tuple[int, int]) -> bytes:
    """Return `source` compiled for a compute capability: machine code, or PTX if NVRTC is older.

    The result is kept in `$XDG_CACHE_HOME/fastinit` (by default `~/.cache/fastinit`).

    Raises:
        Unusable: there is no NVRTC that compiles the source for the GPU.
    """
    try:
        from cuda.bindings import nvrtc

        version = _checked(nvrtc, nvrtc.nvrtcVersion())
        known = _checked(nvrtc, nvrtc.nvrtcGetSupportedArchs())[0]
    except (ImportError, RuntimeError, OSError) as error:  # no bindings, or no library
        raise Unusable(f"NVRTC is not usable ({error})") from error
    number = capability[0] * 10 + capability[1]
    usable = [arch for arch in known if arch <= number]
    if not usable:
        raise Unusable(f"NVRTC compiles for sm_{min(known)} and later, the GPU is sm_{number}")
    kind = "sm" if number in known else "compute"
    arch = f"--gpu-architecture={kind}_{max(usable)}"
    key = hashlib.sha256(repr((source, arch, FLAGS, version)).encode()).hexdigest()[:32]
    name = f"{key}.{'cubin' if kind == 'sm' else 'ptx'}"
    image = _kept(name)
    if image is None:
        try:
            image = _compile(nvrtc, source, [arch, *FLAGS], is_cubin=kind == "sm")
        except RuntimeError as error:
            raise Unusable(f"NVRTC does not compile the kernel ({error})") from error
        _keep(name, image)
    return image


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastinit"


def _kept(name: str) -> bytes | None:
    try:
        return (_cache() / name).read_bytes()
    except (OSError, RuntimeError):  # no file, or no home folder
        return None


def _keep(name: str, image: bytes) -> None:
    """Keep an image for the next process; if that fails, the next one compiles again."""
    with suppress(OSError, RuntimeError):
        file = _cache() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            part = Path(folder) / name
            part.write_bytes(image)
            part.replace(file)


def _checked(nvrtc: Any, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    result, *values = answer
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(result.name)
    return tuple(values)


def _compile(nvrtc: Any, source: str, options: list[str], is_cubin: bool) -> bytes:
    (program,) = _checked(
        nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), b"fastinit.cu", 0, [], [])
    )
    try:
        encoded = [option.encode() for option in options]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            (size,) = _checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
            log = bytes(size)
            _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"{result.name}: {log.decode(errors='replace').strip()}")
        size_of = nvrtc.nvrtcGetCUBINSize if is_cubin else nvrtc.nvrtcGetPTXSize
        (size,) = _checked(nvrtc, size_of(program))
        image = bytes(size)
        _checked(nvrtc, (nvrtc.nvrtcGetCUBIN if is_cubin else nvrtc.nvrtcGetPTX)(program, image))
        return image
    finally:
        nvrtc.nvrtcDestroyProgram(program)
