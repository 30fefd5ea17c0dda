"""Whether a GPU writes what the CPU writes, bit by bit: the quick proof, without pytest.

    python -m bench.gpu_equal [--output FILE] [--quick]

All 2^32 words through each primitive whose instructions are not the host's; every rule in every
dtype in every layout; 2^32 normals. Each part is one JSON line; a difference ends the run with the
exit status 1.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.lib.gpu_timing import Difference
from bench.lib.timing import emit, results
from fastinit import _C
from fastinit.kernels import cuda, nvrtc

PRIMITIVES = ("sqrt", "select", "product", "upper_half", "pack")
SOURCE = Path(__file__).parent / "lib" / "primitives.cu"
DTYPES = {
    torch.float32: (_C.FLOAT32, 1e-39),
    torch.float16: (_C.FLOAT16, 3e-6),
    torch.bfloat16: (_C.BFLOAT16, 1e-39),
    torch.float64: (_C.FLOAT64, 1e-309),
}
WORDS = (_C.WORDS, (0.0, 0.0, 0.0, 0.0))
SPAN = 1 << 34  # elements of fp32 in 2^32 Philox blocks
Fill = Callable[[Sequence[tuple[Any, ...]]], None]


def rules(tiny: float) -> dict[str, tuple[int, tuple[float, ...]]]:
    """Rules by name, those with results below the smallest normal number among them."""
    given = {
        "constant": (_C.CONSTANT, (0.1,)),
        "negative zero": (_C.CONSTANT, (-0.0,)),
        "uniform": (_C.UNIFORM, (-0.036, 0.05)),
        "tiny uniform": (_C.UNIFORM, (-tiny, tiny)),
        "normal": (_C.NORMAL, (0.0, 0.02)),
        "shifted normal": (_C.NORMAL, (-3.0, 0.1)),
        "tiny normal": (_C.NORMAL, (0.0, tiny)),
        "trunc_normal": (_C.TRUNC_NORMAL, (0.0, 0.02, -0.04, 0.04)),
        "tail": (_C.TRUNC_NORMAL, (0.0, 1.0, 5.0, 6.0)),
        "one side": (_C.TRUNC_NORMAL, (0.0, 1.0, float("-inf"), 1.0)),
        "tiny trunc_normal": (_C.TRUNC_NORMAL, (0.0, tiny, -2 * tiny, 2 * tiny)),
    }
    return {name: (kind, (*p, *(0.0,) * (4 - len(p)))) for name, (kind, p) in given.items()}


Box = tuple[tuple[int, int, int], ...]


def layouts() -> Iterator[tuple[str, int, int, int, int | Box]]:
    """Yield (name, elements of memory, offset, first index, box)."""
    for offset in range(9):
        for n in (1, 37, 5000):
            yield f"{n} from {offset}", n + offset, offset, offset * 3, n
    yield "from the end of a span", 40_000, 0, SPAN - 20_000, 40_000
    yield "columns, aligned", 64 * 32, 0, 32, ((64, 32, 128), (32, 1, 1))
    yield "columns, odd", 50 * 21, 0, 13, ((50, 21, 77), (21, 1, 1))
    yield "transposed", 96 * 70, 0, 0, ((96, 1, 70), (70, 96, 1))
    yield "channels_last", 8 * 6 * 9, 0, 0, ((8, 54, 54), (6, 1, 9), (9, 6, 1))
    yield "every other", 2 * 999, 1, 0, ((999, 2, 1),)


def gpu_fill(device: torch.device) -> Fill:
    """A fill that launches and copies its table, without the frontend; of memory of the CPU with a
    stand-in for the driver."""

    def fill(table: Sequence[tuple[Any, ...]]) -> None:
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        for batch in _C.cuda_pack(table):
            uploaded = torch.frombuffer(batch, dtype=torch.uint8).to(device)
            _C.cuda_launch(device.index or 0, stream, batch, uploaded.data_ptr())

    return fill


def cpu_fill(table: Sequence[tuple[Any, ...]]) -> None:
    _C.fill(table, torch.get_num_threads())


def bits(tensor: torch.Tensor) -> torch.Tensor:
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.view(width)


def check_layouts(device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a record for each dtype: all rules in all layouts, one table each."""
    fills = ((device, gpu_fill(device)), (torch.device("cpu"), cpu_fill))
    for dtype, (code, tiny) in DTYPES.items():
        cases = list(itertools.product(rules(tiny).items(), layouts()))
        written = []
        for where, fill in fills:
            tensors, table = [], []
            for stream, ((_, (kind, given)), (_, n, offset, start, box)) in enumerate(cases):
                tensor = torch.full((n,), 7, dtype=dtype, device=where)
                tensors.append(tensor)
                pointer = tensor.data_ptr() + offset * tensor.element_size()
                table.append((kind, code, pointer, 2**63 + 5, stream, start, box, *given))
            fill(table)
            written.append([bits(tensor).cpu() for tensor in tensors])
        for ((rule, _), (layout, *_)), found, expected in zip(cases, *written, strict=True):
            if not torch.equal(found, expected):
                raise Difference(f"{rule} in {dtype}, {layout}")
        yield {"record": "equal", "what": f"{dtype}", "cases": len(cases)}


def check_stream(device: torch.device, total: int, chunk: int) -> dict[str, Any]:
    """Compare so many normals of one stream, a chunk at a time."""
    rule = rules(0.0)["normal"]
    fill = gpu_fill(device)
    found = torch.empty(chunk, device=device)
    expected = torch.empty(chunk)
    for start in range(0, total, chunk):
        for tensor, by in ((found, fill), (expected, cpu_fill)):
            by([(rule[0], _C.FLOAT32, tensor.data_ptr(), 1, 2, start, chunk, *rule[1])])
        if not torch.equal(bits(found), bits(expected).to(device)):
            raise Difference(f"normals of float32 from index {start} on")
    return {"record": "equal", "what": "normals of float32", "cases": total}


def check_primitives(device: torch.device) -> dict[str, Any]:
    """Compare the primitives on the GPU with those of the scalar lanes there.

    Raises:
        ImportError, nvrtc.Unusable: there is no NVRTC, or no bindings to the driver.
    """
    from cuda.bindings import driver

    def checked(answer: tuple[Any, ...]) -> Any:
        result, *values = answer
        if int(result) != 0:
            raise RuntimeError(f"the CUDA driver answers {result}")
        return values[0] if values else None

    source = _C.CUDA_SOURCE + SOURCE.read_text(encoding="utf-8")
    image = nvrtc.compiled(source, torch.cuda.get_device_capability(device))
    module = checked(driver.cuModuleLoadData(image))
    kernel = checked(driver.cuModuleGetFunction(module, b"fastinit_primitives"))
    counts = torch.zeros(len(PRIMITIVES), dtype=torch.int64, device=device)
    blocks = 8 * torch.cuda.get_device_properties(device).multi_processor_count
    stream = torch.cuda.current_stream(device).cuda_stream
    arguments = ((counts.data_ptr(),), (ctypes.c_void_p,))
    checked(driver.cuLaunchKernel(kernel, blocks, 1, 1, 256, 1, 1, 0, stream, arguments, 0))
    differences = dict(zip(PRIMITIVES, counts.tolist(), strict=True))
    if any(differences.values()):
        raise Difference(f"primitives, by how many words: {differences}")
    return {"record": "equal", "what": "primitives", "cases": 1 << 32, "of": list(PRIMITIVES)}


def run(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a record of each part. What cannot be tried is told, and the next part comes."""
    device = torch.device(arguments.device)
    total, chunk = (1 << 20, 1 << 18) if arguments.quick else (1 << 32, 1 << 28)
    parts: list[tuple[str, Callable[[], Iterator[dict[str, Any]]]]] = [
        ("layouts", lambda: check_layouts(device)),
        ("primitives", lambda: iter([check_primitives(device)])),
        ("normals of float32", lambda: iter([check_stream(device, total, chunk)])),
    ]
    for name, part in parts:
        start = time.perf_counter()
        try:
            for record in part():
                yield {**record, "seconds": round(time.perf_counter() - start, 2)}
                start = time.perf_counter()
        except (Difference, KeyboardInterrupt):
            raise
        except Exception as error:
            yield {"record": "error", "what": name, "error": f"{type(error).__name__}: {error}"}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_equal", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="2^20 normals")
    parser.add_argument("--output", help="file for the JSON lines (default: standard output)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if torch.device(arguments.device).type == "cuda":
        if reason := cuda.why_unavailable(torch.device(arguments.device).index or 0):
            sys.exit(f"bench.gpu_equal: {reason}")
    else:  # with a stand-in for the driver
        _C.cuda_load(0, b"the body is part of the driver")
    failed = []
    with results(arguments.output) as stream:
        try:
            for record in run(arguments):
                emit(record, stream)
                print(record, file=sys.stderr, flush=True)
                if record["record"] == "error" and record["what"] != "primitives":
                    failed.append(record["what"])
        except Difference as difference:
            emit({"record": "difference", "what": str(difference)}, stream)
            sys.exit(f"bench.gpu_equal: not what the CPU writes: {difference}")
    if failed:  # without NVRTC there are no primitives to compare
        sys.exit(f"bench.gpu_equal: not compared: {', '.join(failed)}")


if __name__ == "__main__":
    main()
