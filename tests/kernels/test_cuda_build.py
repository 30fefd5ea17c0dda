"""What a build holds for GPUs, and how it is told what to hold. NVRTC and NVIDIA's tools need no
GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastinit
from bench import sass
from fastinit import _C
from fastinit.kernels import nvrtc

ROOT = Path(__file__).parents[2]
CAPABILITIES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
FEW = [(7, 5), (9, 0), (12, 0)]


def listed(*arguments: str) -> str:
    done = subprocess.run(
        [sass.cuobjdump(), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def require_no_spills(report: str, kernels: int) -> None:
    """Of cuobjdump's resource usage: registers within the launch bound, and no stack, which is
    where they would spill to."""
    usage = re.findall(r"REG:(\d+) STACK:(\d+) .* LOCAL:(\d+)", report)
    assert len(usage) == kernels
    for registers, stack, local in usage:
        assert int(registers) <= 80
        assert (stack, local) == ("0", "0")


# --- ahead of time --------------------------------------------------------------------------------


def test_a_build_with_nvcc_has_the_kernel_for_every_gpu() -> None:
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if not _C.CUDA_ARCHS:
        assert nvcc is None or os.environ.get("FASTINIT_CUDA") == "0"
        pytest.skip("built without nvcc")
    texts = _C.CUDA_ARCHS.split()
    archs = [text.removesuffix("+PTX").replace(".", "") for text in texts]
    elves = listed("--list-elf", _C.__file__)
    assert re.findall(r"sm_(\d+)", elves) == archs
    if "TORCH_CUDA_ARCH_LIST" not in os.environ:
        assert archs[0] == "75"
        assert {"80", "90"} <= set(archs)
        ptx = re.findall(r"sm_(\d+)", listed("--list-ptx", _C.__file__))
        assert ptx == [arch for arch, text in zip(archs, texts, strict=True) if "+" in text]
        assert ptx[-1] == archs[-1]  # for GPUs to come
    require_no_spills(listed("--dump-resource-usage", _C.__file__), len(archs))
    zstd = b"\x28\xb5\x2f\xfd"
    assert zstd not in Path(_C.__file__).read_bytes(), "drivers before R550 refuse the image"


# setup.py without its last statement, which builds.
SETTINGS = """
source = open("setup.py").read()
names = {"__file__": "setup.py", "__name__": "settings"}
exec(source[: source.rindex("setup(ext_modules")], names)
nvcc, reason = names["nvcc_or_reason"]()
wanted = __import__("os").environ.get("TORCH_CUDA_ARCH_LIST", "")
archs = names["gpu_archs"](nvcc, wanted) if nvcc else []
print(nvcc, reason, archs, *map(names["gencode"], archs), sep="\\n")
"""


def settings(**env: str) -> list[str]:
    """What setup.py makes of an environment, line by line, or the line with which it refuses."""
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).splitlines()


@pytest.fixture
def nvcc(tmp_path: Path) -> str:
    """A compiler that knows some GPUs, of CUDA 12.4."""
    file = tmp_path / "bin" / "nvcc"
    file.parent.mkdir()
    known = "\\n".join(f"compute_{n}" for n in (50, 70, 75, 80, 86, 89, 90))
    file.write_text(f'#!/bin/sh\nprintf "{known}\\n"\n')
    file.chmod(0o755)
    return str(file)


def test_whether_to_compile(nvcc: str) -> None:
    assert settings(FASTINIT_CUDA="0", NVCC=nvcc)[:2] == ["", "built with FASTINIT_CUDA=0"]
    for wanted in ("1", "auto", ""):
        assert settings(FASTINIT_CUDA=wanted, NVCC=nvcc)[0] == nvcc
    assert settings(CUDA_HOME=str(Path(nvcc).parent.parent))[0] == nvcc
    assert "FASTINIT_CUDA must be 0, 1 or auto, got 'yes'" in settings(FASTINIT_CUDA="yes")[-1]
    assert "but NVCC='/nope' is no program" in settings(FASTINIT_CUDA="1", NVCC="/nope")[-1]
    if not Path("/usr/local/cuda/bin/nvcc").exists():
        assert settings(FASTINIT_CUDA="auto")[:2] == ["", "built without nvcc"]
        assert "FASTINIT_CUDA=1, but no nvcc was found" in settings(FASTINIT_CUDA="1")[-1]


def test_for_which_gpus(nvcc: str) -> None:
    lines = settings(NVCC=nvcc)
    assert lines[2] == "['7.5', '8.0', '8.6', '9.0+PTX']"  # what this nvcc knows, the last as PTX
    assert lines[-1] == (
        "-gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90"
    )
    lines = settings(NVCC=nvcc, TORCH_CUDA_ARCH_LIST="8.0;8.9+PTX")
    assert lines[2] == "['8.0', '8.9+PTX']"
    assert lines[3] == "-gencode arch=compute_80,code=sm_80"
    assert settings(NVCC=nvcc, TORCH_CUDA_ARCH_LIST="Hopper")[2] == "['9.0+PTX']"
    said = settings(NVCC=nvcc, TORCH_CUDA_ARCH_LIST="5.0 8.0;12.0 8.0+PTX")
    left_out = "fastinit: left out of TORCH_CUDA_ARCH_LIST: "
    assert said[:2] == [f"{left_out}'5.0'", f"{left_out}'12.0'"]
    assert said[4] == "['8.0+PTX']"
    for wrong in ("12.0", "gfx90a", "9"):
        said = settings(NVCC=nvcc, TORCH_CUDA_ARCH_LIST=wrong)
        assert f"TORCH_CUDA_ARCH_LIST={wrong!r} names none of 7.5, 8.0, 8.6, 8.9, 9.0" in said[-1]


def test_an_nvcc_that_fails(tmp_path: Path) -> None:
    broken = tmp_path / "nvcc"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    code = SETTINGS[: SETTINGS.index("nvcc, reason")] + COMPILE
    env = {"PATH": os.environ["PATH"], "NVCC": str(broken), "FOLDER": str(tmp_path / "cuda")}
    for wanted, returncode, said in (
        ("auto", 0, f"None [] built with an nvcc that failed, {broken}"),
        ("1", 1, f"fastinit: FASTINIT_CUDA=1, but {broken} failed"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=env | {"FASTINIT_CUDA": wanted},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == returncode
        assert said in done.stdout + done.stderr


COMPILE = """
import os, pathlib
print(*names["compile_cuda"](pathlib.Path(os.environ["FOLDER"])))
"""


# --- at run time ----------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fastinit"


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_nvrtc_compiles_the_same_source_without_spills(
    capability: tuple[int, int], cache: Path, request: pytest.FixtureRequest
) -> None:
    if capability not in FEW and not request.config.getoption("--thorough"):
        pytest.skip("with --thorough")
    image = nvrtc.compiled(_C.CUDA_SOURCE, capability)
    [file] = cache.iterdir()
    assert file.read_bytes() == image
    if file.suffix == ".ptx":
        pytest.skip("this NVRTC is older than the GPU: the driver compiles its PTX")
    assert file.suffix == ".cubin"
    require_no_spills(listed("--dump-resource-usage", str(file)), 1)


def test_what_was_compiled_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = 'extern "C" __global__ void fastinit_fill() {}'
    image = nvrtc.compiled(source, (9, 0))
    monkeypatch.setattr(nvrtc, "_compile", None)
    assert nvrtc.compiled(source, (9, 0)) == image
    with pytest.raises(TypeError):  # another GPU is another file
        nvrtc.compiled(source, (8, 0))


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fastinit").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert nvrtc.compiled("__global__ void f() {}", (9, 0))[:4] == b"\x7fELF"


def test_a_gpu_that_nvrtc_does_not_know_gets_ptx(cache: Path) -> None:
    image = nvrtc.compiled('extern "C" __global__ void fastinit_fill() {}', (99, 0))
    assert b".entry fastinit_fill" in image
    [file] = cache.iterdir()
    assert file.suffix == ".ptx"
    with pytest.raises(
        RuntimeError, match=r"NVRTC compiles for sm_\d+ and later, the GPU is sm_10"
    ):
        nvrtc.compiled("", (1, 0))


@pytest.mark.usefixtures("cache")
def test_errors_of_the_compiler() -> None:
    with pytest.raises(RuntimeError, match=r"NVRTC_ERROR_COMPILATION: fastinit.cu\(1\): error"):
        nvrtc.compiled("no such thing", (9, 0))


def test_without_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(RuntimeError, match="NVRTC is not usable"):
        nvrtc.compiled(_C.CUDA_SOURCE, (9, 0))


# --- what it costs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loops() -> dict[tuple[str, str], sass.Loop]:
    return {(loop.distribution, loop.dtype): loop for loop in sass.measured((9, 0))}


def test_every_distribution_and_dtype_has_its_loop(
    loops: dict[tuple[str, str], sass.Loop],
) -> None:
    dtypes = ("float32", "float16", "bfloat16", "float64")
    kinds = ("uniform", "normal", "trunc_normal")
    expected = {(kind, dtype) for kind in kinds for dtype in dtypes}
    assert set(loops) - {("constant", "any")} == expected | {("words", "uint32")}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_normal_is_38_instructions(loops: dict[tuple[str, str], sass.Loop], dtype: str) -> None:
    assert loops["normal", dtype].instructions <= 38
    assert loops["uniform", dtype].instructions <= 17


def test_the_shortest_way_skips_what_a_branch_may() -> None:
    code = [
        sass.Instruction(0x00, False, "IADD3", " R1"),
        sass.Instruction(0x10, True, "BRA", " 0x40"),
        sass.Instruction(0x20, False, "FMUL", " R1"),
        sass.Instruction(0x30, False, "FMUL", " R1"),
        sass.Instruction(0x40, False, "STG.E.128", " R1"),
        sass.Instruction(0x50, True, "BRA", " 0x0"),
    ]
    [body] = sass.loops(code)
    assert [i.address for i in sass.shortest_way(body)] == [0x00, 0x10, 0x40, 0x50]


def test_the_source_is_the_repositorys() -> None:
    assert Path(fastinit.__file__).parent.parent == ROOT
    for piece in ("struct Cuda : Scalar", "class RandomUnits", "kQuantileCentral32"):
        assert piece in _C.CUDA_SOURCE
    assert '#include "' not in _C.CUDA_SOURCE
