"""Instructions per element of the CUDA kernel, from its disassembly: what shows without a GPU.

    python -m bench.sass [--arch 9.0] [--output FILE]

The kernel is compiled by NVRTC, as an installation without nvcc would, and taken apart by NVIDIA's
cuobjdump. Each loop that writes whole units of 16 bytes belongs to a distribution and a dtype, told
apart by what is in them. Counted is the shortest way through the loop: the tail of a truncated
normal, which one element in 500 needs, is not on it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from fastinit import _C
from fastinit.kernels import nvrtc

# What issues at half the rate of the schedulers on Hopper, by opcode: 64 lanes a cycle of an SM.
HALF_RATE = (
    *("LOP3", "PLOP3", "IADD3", "VIADD", "SHF", "LEA", "PRMT", "MOV", "SEL", "ISETP"),
    *("FSEL", "FSET", "FSETP", "FMNMX", "I2FP", "F2FP"),
)
GPU = {"SMs": 132, "lanes": 128, "GHz": 1.98}  # H200: 33.5 T lane-instructions a second


@dataclass(frozen=True)
class Loop:
    """One loop of the kernel over whole units.

    Attributes:
        distribution: constant, words, uniform, normal or trunc_normal.
        dtype: of what is written; of constants, the size.
        elements: written in one iteration by one thread.
        instructions: an element, along the shortest way.
        half_rate: those among them that issue at half rate.
        bound: elements a second, in 1e12, at which an H200 would issue all that; not measured.
    """

    distribution: str
    dtype: str
    elements: int
    instructions: float
    half_rate: float
    bound: float


@dataclass(frozen=True)
class Instruction:
    address: int
    predicated: bool
    opcode: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        match = re.search(r"0x([0-9a-f]+)", self.operands)
        return int(match[1], 16) if self.opcode.startswith("BRA") and match else None


def cuobjdump() -> str:
    """NVIDIA's disassembler: on PATH, or from its Python package.

    Raises:
        FileNotFoundError: there is none; `pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`
            brings it and what it calls.
    """
    spec = find_spec("nvidia")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    packaged = [str(path) for place in places for path in Path(place).glob("cu*/bin")]
    for path in (None, *packaged):
        if found := shutil.which("cuobjdump", path=path):
            return found
    raise FileNotFoundError("cuobjdump is not on PATH; pip install nvidia-cuda-cuobjdump")


def disassembled(cubin: bytes) -> list[Instruction]:
    """All instructions of a cubin with one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [cuobjdump(), "-sass", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pattern = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.M)
    return [
        Instruction(int(address, 16), bool(predicate), opcode, operands)
        for address, predicate, opcode, operands in pattern.findall(text)
    ]


def loops(code: Sequence[Instruction]) -> list[list[Instruction]]:
    """Innermost loops that write whole units."""
    at = {instruction.address: n for n, instruction in enumerate(code)}
    found = [
        list(code[at[i.target] : n + 1])
        for n, i in enumerate(code)
        if i.target is not None and i.target < i.address and i.target in at
    ]
    return [body for body in found if any(_stores_a_unit(i) for i in body)]


def _stores_a_unit(instruction: Instruction) -> bool:
    return instruction.opcode.startswith("ST") and ".128" in instruction.opcode


def shortest_way(body: Sequence[Instruction]) -> list[Instruction]:
    """The fewest instructions from the head of a loop to its closing branch."""
    at = {instruction.address: n for n, instruction in enumerate(body)}
    last = len(body) - 1
    length, following = [1] * len(body), [-1] * len(body)
    for n in range(last - 1, -1, -1):
        target = body[n].target
        ways = [n + 1] if target is None or body[n].predicated else []
        if target is not None and n < at.get(target, -1):
            ways.append(at[target])
        following[n] = min(ways or [n + 1], key=length.__getitem__)
        length[n] = 1 + length[following[n]]
    way, n = [], 0
    while n >= 0:
        way.append(body[n])
        n = following[n]
    return way


def described(body: Sequence[Instruction]) -> Loop:
    """Which loop it is, and what it costs."""
    way = shortest_way(body)
    opcodes = Counter(i.opcode.split(".")[0] for i in way)
    names = {i.opcode for i in body}
    roots = sum(i.opcode == "MUFU.RSQ" for i in way)
    is_double = opcodes["DFMA"] > 0
    if any(name.startswith("F2FP.BF16") for name in names):
        dtype, size = "bfloat16", 2
    elif any(name.startswith(("F2FP.F16", "F2F.F16")) for name in names):
        dtype, size = "float16", 2
    else:
        dtype, size = ("float64", 8) if is_double else ("float32", 4)
    elements = sum(map(_stores_a_unit, way)) * 16 // size
    if is_double:
        roots = sum(i.opcode.startswith("MUFU.RSQ64") for i in way)
    if not opcodes["IMAD"] or opcodes["LOP3"] < 10:
        distribution, dtype = "constant", "any"
    elif not opcodes["FFMA"] + opcodes["DFMA"]:
        distribution, dtype = "words", "uint32"
    elif not roots:
        distribution = "uniform"
    else:  # one root for a pair of normals, two for each quantile
        distribution = "normal" if 2 * roots <= elements else "trunc_normal"
    half_rate = sum(opcodes[name] for name in HALF_RATE) / elements
    cycles = max(len(way) / elements, 2 * half_rate) / GPU["lanes"]
    bound = GPU["SMs"] * GPU["GHz"] * 1e-3 / cycles
    return Loop(distribution, dtype, elements, len(way) / elements, half_rate, bound)


def measured(capability: tuple[int, int]) -> list[Loop]:
    """The loops of the kernel as compiled for a compute capability."""
    return [
        described(body) for body in loops(disassembled(nvrtc.compiled(_C.CUDA_SOURCE, capability)))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="9.0", help="compute capability (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="also write a JSON line per loop there")
    arguments = parser.parse_args()
    major, minor = map(int, arguments.arch.split("."))
    if major < 8:
        parser.error(f"--arch {arguments.arch}: before 8.0 nothing tells 16-bit loops apart")
    found = [loop for loop in measured((major, minor)) if loop.distribution != "constant"]
    print("| distribution | dtype | elements | instructions | half rate | bound, T/s |")
    print("|---|---|---|---|---|---|")
    for loop in found:
        print(
            f"| {loop.distribution} | {loop.dtype} | {loop.elements} | {loop.instructions:.2f} "
            f"| {loop.half_rate:.2f} | {loop.bound:.2f} |"
        )
    if arguments.output:
        lines = [json.dumps({"arch": arguments.arch, **asdict(loop)}) for loop in found]
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
