"""Filling a GPU from tests, and comparing it with the CPU, whose values the other tests prove."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import fastinit
from fastinit import _C, init
from fastinit.kernels import cuda

ROOT = Path(__file__).parents[2]
GPU = torch.device("cuda", 0)
CODES = {
    torch.float32: _C.FLOAT32,
    torch.float16: _C.FLOAT16,
    torch.bfloat16: _C.BFLOAT16,
    torch.float64: _C.FLOAT64,
    torch.int32: _C.UINT32,  # torch's int32 holds the bits of the words
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
WAIT = 200_000_000  # cycles, a tenth of a second: longer than anything that a test queues behind it


class Rule(NamedTuple):
    """A kind with its parameters: (value), (a, b), (mean, std) or (mean, std, a, b)."""

    kind: int
    parameters: tuple[float, ...] = ()


WORDS = Rule(_C.WORDS)
CONSTANT = Rule(_C.CONSTANT, (0.1,))
UNIFORM = Rule(_C.UNIFORM, (-0.036, 0.05))
NORMAL = Rule(_C.NORMAL, (0.0, 0.02))
TRUNC_NORMAL = Rule(_C.TRUNC_NORMAL, (0.0, 0.02, -0.04, 0.04))
RULES = [CONSTANT, UNIFORM, NORMAL, TRUNC_NORMAL]


def row(
    tensor: torch.Tensor,
    rule: Rule,
    start: int = 0,
    box: Any = None,
    seed: int = 2**63 + 5,
    stream: int = 2**64 - 7,
) -> tuple[Any, ...]:
    """A row of the table: `tensor` from its first element on, or the box of it."""
    parameters = rule.parameters + (0.0,) * (4 - len(rule.parameters))
    region = tensor.numel() if box is None else box
    code = CODES[tensor.dtype]
    return (rule.kind, code, tensor.data_ptr(), seed, stream, start, region, *parameters)


def require_kernel() -> None:
    """Make the kernel ready on the GPU."""
    assert cuda.is_ready(GPU.index), cuda.why_unavailable(GPU.index)


def fill(table: Sequence[tuple[Any, ...]]) -> None:
    """Fill on the GPU's current stream, as the package does."""
    place = cuda.place_of(torch.empty(0, device=GPU))
    assert place is not None
    require_kernel()
    cuda.execute(place, table)


def fill_in_tiles(table: Sequence[tuple[Any, ...]], tile_units: int, limit: int = 0) -> None:
    """Fill on the GPU's current stream, in tiles of so many units and batches of so many bytes."""
    require_kernel()
    stream = torch.cuda.current_stream(GPU).cuda_stream
    for batch in _C.cuda_pack(table, limit, tile_units):
        uploaded = torch.frombuffer(batch, dtype=torch.uint8).to(GPU)
        _C.cuda_launch(GPU.index, stream, batch, uploaded.data_ptr())


def fill_cpu(table: Sequence[tuple[Any, ...]]) -> None:
    _C.fill(table, torch.get_num_threads())


def pair(n: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(on the GPU, on the CPU), n elements of the same pattern each."""
    return torch.full((n,), 7, dtype=dtype, device=GPU), torch.full((n,), 7, dtype=dtype)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Bitwise equality, compared where `found` is."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
    bits = [t.detach().to(found.device).contiguous().view(width) for t in (found, expected)]
    return found.dtype == expected.dtype and torch.equal(*bits)


def seeded(run: Callable[[], object], seed: int = 0) -> None:
    torch.manual_seed(seed)
    run()


class Region:
    """n elements `shift` past a boundary of 64 bytes, amid others that must not change."""

    MARGIN = 64
    PATTERN = 0x5A

    def __init__(self, n: int, dtype: torch.dtype, shift: int, device: torch.device) -> None:
        total = (n + 2 * self.MARGIN + shift) * dtype.itemsize
        whole = torch.full((total + 64,), self.PATTERN, dtype=torch.uint8, device=device)
        skip = -whole.data_ptr() % 64
        self.bytes = whole[skip : skip + total]
        first = self.MARGIN + shift
        self.tensor = self.bytes.view(dtype)[first : first + n]


def mixed(
    count: int, seed: int, device: torch.device
) -> tuple[list[Region], list[tuple[Any, ...]]]:
    """Regions of random dtype, length and alignment, and the table that fills them by random rules
    from random starts; the same for every device."""
    draw = random.Random(seed)
    regions, table = [], []
    for _ in range(count):
        dtype = draw.choice(list(CODES))
        rule = WORDS if dtype == torch.int32 else draw.choice(RULES)
        n = draw.choice([0, 1, 3, draw.randrange(100), draw.randrange(9000)])
        regions.append(Region(n, dtype, draw.randrange(20), device))
        start = draw.choice([0, 1, draw.getrandbits(62), 2**34 - draw.randrange(5000)])
        keys = {"seed": draw.getrandbits(64), "stream": draw.getrandbits(64)}
        table.append(row(regions[-1].tensor, rule, start, **keys))
    return regions, table


class Many(fastinit.BaseModule):
    """`count` parameters of one dtype after the other and every rule, more than travel with one
    launch; initialised by a method of its own."""

    def __init__(self, count: int, device: torch.device, size: int = 1000) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            torch.full((size + n,), 7, dtype=DTYPES[n % 4], device=device) for n in range(count)
        )

    def init_weights(self) -> None:
        for n, weight in enumerate(self.weights):
            if n % 3 == 0:
                init.normal_(weight, std=0.02)
            elif n % 3 == 1:
                init.uniform_(weight, -0.1, 0.1)
            else:
                init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)

    def equals(self, other: Many) -> bool:
        return all(same(a, b) for a, b in zip(self.weights, other.weights, strict=True))


def run_python(code: str) -> str:
    """What a process of its own prints."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
