"""Builds `fastinit._C` with ninja: no torch at build time, one set of flags per instruction set.

FASTINIT_CUDA=0|1|auto: whether kernels for GPUs are compiled ahead of time; `auto`, the default,
does so where nvcc is found, `1` fails where it is not. TORCH_CUDA_ARCH_LIST, as torch understands
it, says for which GPUs. CXX, CXXFLAGS and NVCC choose compilers and add flags.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path(__file__).parent.resolve() / "csrc"
CUDA = CSRC / "cuda"
# fp contraction would let each compiler choose its own roundings: the values would differ.
CXXFLAGS = (
    "-std=c++17 -O3 -fPIC -pthread -ffp-contract=off -fno-math-errno -fvisibility=hidden "
    "-Wall -Wextra -Werror=switch"
)
# Only device code is compiled, for which the version of the host's compiler does not matter.
NVCCFLAGS = "-std=c++17 -O3 -fmad=false -allow-unsupported-compiler -Xfatbin -compress-all"
# Of nvcc's ways to compress the one that all drivers read: drivers before R550 refuse zstd, which
# is the default of CUDA 13. Older ones have no such flag, and need none.
COMPRESSION = "--compress-mode=speed"
# Machine code runs on later GPUs of the same major version, PTX on all later ones.
GPU_ARCHS = "7.5 8.0 8.6 9.0 10.0+PTX 12.0+PTX"
OLDEST_GPU = 75
GPU_FAMILIES = {
    "All": GPU_ARCHS,
    "Common": GPU_ARCHS,
    "Volta": "7.0+PTX",
    "Turing": "7.5+PTX",
    "Ampere": "8.0 8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0 12.0+PTX",
}


def cxx_compiler() -> str:
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for candidate in candidates:
        if shutil.which(candidate.split()[0]):
            return candidate
    sys.exit(
        f"fastinit: no C++17 compiler found (looked for: {', '.join(candidates)}). "
        "Install g++ or clang++, or point CXX at one."
    )


def ninja_program() -> str:
    """ninja of the Python package, or the system's."""
    if find_spec("ninja") is not None:
        import ninja

        return str(Path(ninja.BIN_DIR) / "ninja")
    return shutil.which("ninja") or sys.exit(
        "fastinit: no ninja found: install it, or the Python package of that name."
    )


def run_ninja(folder: Path) -> None:
    """Build what is out of date, and be silent where nothing is."""
    ninja = ninja_program()
    planned = subprocess.run([ninja, "-n"], cwd=folder, capture_output=True, text=True)
    if "no work to do" not in planned.stdout:
        subprocess.run([ninja], cwd=folder, check=True)


def pybind11_headers() -> str:
    """Those of the Python package, or the copy that torch brings along."""
    if find_spec("pybind11") is not None:
        import pybind11

        return str(pybind11.get_include())
    torch = find_spec("torch")
    headers = Path(torch.origin).parent / "include" if torch and torch.origin else None
    if headers is None or not (headers / "pybind11").is_dir():
        sys.exit("fastinit: the Python package pybind11 is missing, and there is no torch with it.")
    return str(headers)


def scheduling_flags(compiler: str) -> str:
    """GCC's scheduler before register allocation, off by default on x86: a fifth faster here.

    It interleaves independent vectors as far as the registers reach. Clang does so by itself.
    """
    version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True)
    is_gcc = "Free Software Foundation" in version.stdout
    return "-fschedule-insns -fsched-pressure" if is_gcc else ""


def setting(source: Path, name: str) -> str | None:
    """What the head of a translation unit for one instruction set says: `// name: value`."""
    found = re.search(rf"^// {name}:(.*)$", source.read_text(), re.MULTILINE)
    return found and found[1].strip()


def sources() -> list[Path]:
    """Those of this machine; a file that names no machines is for all."""
    everywhere = [
        CSRC / "bindings.cpp",
        *(CSRC / "table").glob("*.cpp"),
        *(CSRC / "cpu").glob("*.cpp"),
        *(CSRC / "record").glob("*.cpp"),
    ]
    here = platform.machine().lower()
    chosen = [s for s in everywhere if here in (setting(s, "machines") or here).split()]
    return [*sorted(chosen), CUDA / "driver.cpp", CUDA / "pack.cpp"]  # image.cpp needs more


def nvcc_or_reason() -> tuple[str, str]:
    """(nvcc, ""), or ("", why kernels for GPUs are not compiled)."""
    wanted = os.environ.get("FASTINIT_CUDA") or "auto"
    if wanted not in ("0", "1", "auto"):
        sys.exit(f"fastinit: FASTINIT_CUDA must be 0, 1 or auto, got {wanted!r}")
    if wanted == "0":
        return "", "built with FASTINIT_CUDA=0"
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    usual = [*(f"{home}/bin/nvcc" for home in homes if home), "nvcc", "/usr/local/cuda/bin/nvcc"]
    chosen = os.environ.get("NVCC")
    for candidate in [chosen] if chosen else usual:
        if shutil.which(candidate.split()[0]):
            return candidate, ""
    if wanted == "1":
        found = f"NVCC={chosen!r} is no program" if chosen else "no nvcc was found"
        sys.exit(
            f"fastinit: FASTINIT_CUDA=1, but {found}. Put it on PATH, or set CUDA_HOME or NVCC."
        )
    return "", "built without nvcc"


def gpu_archs(nvcc: str, wanted: str) -> list[str]:
    """Architectures to compile for, as "9.0" or "9.0+PTX": those of `wanted`, torch's notation, or
    of the default, that this nvcc knows and the kernel runs on.

    Raises:
        ValueError: there is none.
    """
    command = [*nvcc.split(), "--list-gpu-arch"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    known = {int(n) for n in re.findall(r"compute_(\d+)\b", listed.stdout)}
    names = wanted.replace(";", " ").split()
    archs = " ".join(GPU_FAMILIES.get(name, name) for name in names) or GPU_ARCHS
    found: dict[int, str] = {}
    for arch in archs.split():
        version = re.fullmatch(r"(\d+)\.(\d)[af]?(\+PTX)?", arch)
        number = int(version[1] + version[2]) if version else 0
        if number in known and number >= OLDEST_GPU:
            found[number] = max(arch, found.get(number, ""), key=len)
        elif names:
            print(f"fastinit: left out of TORCH_CUDA_ARCH_LIST: {arch!r}")
    if not found:
        usable = ", ".join(f"{n // 10}.{n % 10}" for n in sorted(known) if n >= OLDEST_GPU)
        raise ValueError(f"TORCH_CUDA_ARCH_LIST={wanted!r} names none of {usable}")
    if not names:  # the last one that an older nvcc knows stands for later ones
        newest = max(found)
        found[newest] = found[newest].removesuffix("+PTX") + "+PTX"
    return [found[number] for number in sorted(found)]


def compression(nvcc: str) -> str:
    command = [*nvcc.split(), "--help"]
    options = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return COMPRESSION if COMPRESSION.partition("=")[0] in options else ""


def gencode(arch: str) -> str:
    number = re.sub(r"\.|\+PTX", "", arch)
    flags = f"-gencode arch=compute_{number},code=sm_{number}"
    return flags + (f" -gencode arch=compute_{number},code=compute_{number}" if "+" in arch else "")


def in_one_piece(source: Path, seen: set[Path]) -> str:
    """The source with its own headers in place of their #include, and without the standard ones."""
    seen.add(source)
    text = ""
    for line in source.read_text().splitlines():
        include = re.fullmatch(r'#include ([<"])(.*)[>"]', line)
        if include is None:
            text += "" if line == "#pragma once" else line + "\n"
        elif include[1] == '"':
            header = (source.parent / include[2]).resolve()
            text += "" if header in seen else in_one_piece(header, seen)
    return text


class BuildFile:
    """The text of build.ninja."""

    def __init__(self) -> None:
        self.text = ""

    def variable(self, name: str, value: str) -> None:
        self.text += f"{name} = {value}\n"

    def rule(self, name: str, command: str, **properties: str) -> None:
        self._paragraph(f"rule {name}", {"command": command, **properties})

    def build(
        self,
        target: Path,
        rule: str,
        inputs: Iterable[Path],
        implicit: Iterable[Path] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        names = " ".join([rule, *map(self._escaped, inputs), "|", *map(self._escaped, implicit)])
        self._paragraph(f"build {self._escaped(target)}: {names.removesuffix(' |')}", variables)

    def _paragraph(self, title: str, variables: Mapping[str, str] | None) -> None:
        self.text += f"{title}\n"
        for name, value in (variables or {}).items():
            self.variable(f"  {name}", value)

    @staticmethod
    def _escaped(path: Path) -> str:
        return re.sub(r"([$ :])", r"$\1", str(path))


def compile_cuda(folder: Path) -> tuple[Path | None, list[str], str]:
    """(compiled kernel, its architectures, ""), or (None, [], why there is none).

    A build of its own, which may fail where FASTINIT_CUDA is not 1.
    """
    nvcc, reason = nvcc_or_reason()
    if nvcc:
        folder.mkdir(exist_ok=True)
        fatbin = folder / "fastinit.fatbin"
        try:
            archs = gpu_archs(nvcc, os.environ.get("TORCH_CUDA_ARCH_LIST", ""))
            n = BuildFile()
            n.rule(
                "compile",
                f"{nvcc} {NVCCFLAGS} {compression(nvcc)} --threads 0 "
                f"{' '.join(map(gencode, archs))} -fatbin -MD -MF $out.d $in -o $out",
                depfile="$out.d",
                deps="gcc",
                description=f"compile $in for GPUs of compute capability {', '.join(archs)}",
            )
            n.build(fatbin, "compile", [CUDA / "fill.cu"])
            (folder / "build.ninja").write_text(n.text)
            run_ninja(folder)
            return fatbin, archs, ""
        except (ValueError, OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("FASTINIT_CUDA") == "1":
                sys.exit(f"fastinit: FASTINIT_CUDA=1, but {nvcc} failed: {error}")
            print(error)
            reason = f"built with an nvcc that failed, {nvcc}"
    print(f"fastinit: no kernels for GPUs compiled: {reason}")
    return None, [], reason


class BuildWithNinja(build_ext):
    """Compile in parallel, and again only what changed."""

    def build_extension(self, ext: Extension) -> None:
        build = Path(self.build_temp).resolve()
        if self.editable_mode:  # which gives a folder to throw away: share the one of `--inplace`
            folder = f"temp.{self.plat_name}-{sys.implementation.cache_tag}"
            build = Path("build", folder).resolve()
        build.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        includes = [pybind11_headers(), sysconfig.get_path("include")]
        undefined = "-undefined dynamic_lookup" if sys.platform == "darwin" else ""
        compiler = cxx_compiler()
        schedule = scheduling_flags(compiler)
        n = BuildFile()
        n.variable("cxx", compiler)
        n.variable("cxxflags", CXXFLAGS + "".join(f" -isystem {path}" for path in includes))
        n.variable("user", os.environ.get("CXXFLAGS", ""))  # last, so that it wins
        n.rule(
            "compile",
            "$cxx $cxxflags $isa $user -MD -MF $out.d -c $in -o $out",
            depfile="$out.d",
            deps="gcc",
            description="compile $in",
        )
        n.rule(
            "link",
            f"$cxx $user -shared -pthread {undefined} $in -ldl -o $out",
            description="link $out",
        )
        objects = [self.write_cuda(n, build)]
        for source in sources():
            objects.append(build / f"{source.stem}.o")
            wide = setting(source, "flags")
            flags = f"{wide} {schedule}" if wide else ""
            n.build(objects[-1], "compile", [source], variables={"isa": flags})
        n.build(target, "link", objects)
        (build / "build.ninja").write_text(n.text)
        run_ninja(build)

    def write_cuda(self, n: BuildFile, build: Path) -> Path:
        """What embeds the kernel for GPUs and its source."""
        source, image = build / "fastinit_source.h", build / "image.o"
        text = in_one_piece(CUDA / "nvrtc.h", set()) + in_one_piece(CUDA / "fill.cu", set())
        text = f'R"fastinit({text})fastinit"\n'
        if not source.exists() or source.read_text() != text:
            source.write_text(text)
        fatbin, archs, reason = compile_cuda(build / "cuda")
        defines = {"SOURCE": str(source), "ARCHS": " ".join(archs)}
        defines |= {"FATBIN": str(fatbin)} if fatbin else {"REASON": reason}
        flags = " ".join(f"-DFASTINIT_CUDA_{name}='\"{value}\"'" for name, value in defines.items())
        embedded = [source, fatbin] if fatbin else [source]
        n.build(image, "compile", [CUDA / "image.cpp"], embedded, {"isa": flags})
        return image


# The kernels are written for GCC's and Clang's dialect. Elsewhere the package installs without
# them and runs on the torch backend.
native = [] if sys.platform == "win32" else [Extension("fastinit._C", sources=[])]
setup(ext_modules=native, cmdclass={"build_ext": BuildWithNinja})
