"""Builds `fastinit._C` with ninja: no torch at build time, one set of flags per instruction set."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import ninja
import pybind11
from ninja import ninja_syntax
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path(__file__).parent.resolve() / "csrc"
# fp contraction would let each compiler choose its own roundings: the values would differ.
CXXFLAGS = (
    "-std=c++17 -O3 -fPIC -pthread -ffp-contract=off -fno-math-errno -fvisibility=hidden "
    "-Wall -Wextra"
)
# GCC's own AVX-512 headers start from deliberately uninitialised registers, and warn about it.
X86_FLAGS = {
    "avx2": "-mavx2 -mfma -mf16c",
    "avx512": "-mavx512f -mavx512dq -Wno-uninitialized -Wno-maybe-uninitialized",
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


def scheduling_flags(compiler: str) -> str:
    """GCC's scheduler before register allocation, off by default on x86: a fifth faster here.

    It interleaves independent vectors as far as the registers reach. Clang does so by itself.
    """
    version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True)
    is_gcc = "Free Software Foundation" in version.stdout
    return "-fschedule-insns -fsched-pressure" if is_gcc else ""


def sources() -> list[Path]:
    machine = platform.machine().lower()
    isas = {"scalar"}
    if machine in ("x86_64", "amd64"):
        isas |= X86_FLAGS.keys()
    elif machine in ("aarch64", "arm64"):
        isas |= {"neon"}  # part of the architecture: no flags
    kernels = [CSRC / "cpu" / f"fill_{isa}.cpp" for isa in sorted(isas)]
    return [*sorted(CSRC.glob("*.cpp")), CSRC / "cpu" / "dispatch.cpp", *kernels]


def isa_of(source: Path) -> str:
    return source.stem.removeprefix("fill_")


class BuildWithNinja(build_ext):
    """Compile in parallel, and again only what changed."""

    def build_extension(self, ext: Extension) -> None:
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        includes = [pybind11.get_include(), sysconfig.get_path("include")]
        undefined = "-undefined dynamic_lookup" if sys.platform == "darwin" else ""
        with (build / "build.ninja").open("w") as stream:
            n = ninja_syntax.Writer(stream)
            compiler = cxx_compiler()
            schedule = scheduling_flags(compiler)
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
                f"$cxx $user -shared -pthread {undefined} $in -o $out",
                description="link $out",
            )
            objects = []
            for source in sources():
                objects.append(str(build / f"{source.stem}.o"))
                flags = (
                    f"{X86_FLAGS[isa_of(source)]} {schedule}" if isa_of(source) in X86_FLAGS else ""
                )
                n.build(objects[-1], "compile", str(source), variables={"isa": flags})
            n.build(str(target), "link", objects)
            n.default(str(target))
        subprocess.run([str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(build)], check=True)


# The kernels are written for GCC's and Clang's dialect. Elsewhere the package installs without
# them and runs on the torch backend.
native = [] if sys.platform == "win32" else [Extension("fastinit._C", sources=[])]
setup(ext_modules=native, cmdclass={"build_ext": BuildWithNinja})
