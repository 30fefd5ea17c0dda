"""Batches for a GPU, and launches through the driver, here the stand-in of fake_cuda.py.

That the kernel's body gives the values of the CPU is tested wherever tests take `isa`, which may be
"cuda"; with a GPU, tests/gpu asks it as well.
"""

from __future__ import annotations

import fake_cuda
import pytest
import torch
from filling import Rule, fill, filled, same, segment
from hypothesis import given
from hypothesis import strategies as st

from fastinit import _C

NORMAL = Rule("normal", (0.0, 1.0))

# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "span"), [(torch.float32, 2**34), (torch.float64, 2**33)])
def test_whole_units_on_both_sides_of_two_to_the_32_blocks(
    driver: fake_cuda.FakeDriver, dtype: torch.dtype, span: int
) -> None:
    for start in (span - 4096, 3 * span - 64):
        assert same(
            filled(20_000, dtype, NORMAL, 1, 2, start, isa="cuda"),
            filled(20_000, dtype, NORMAL, 1, 2, start),
        )


@given(counts=st.lists(st.integers(0, 3000), max_size=80), limit=st.sampled_from([600, 4088, 0]))
def test_a_batch_is_as_long_as_its_limit_allows(
    fake_driver: fake_cuda.FakeDriver, counts: list[int], limit: int
) -> None:
    tensors = [torch.full((n,), -1.0) for n in counts]
    table = [segment(t, NORMAL, 3, n, n) for n, t in enumerate(tensors)]
    batches = _C.cuda_pack(table, limit)
    if limit:
        assert all(batch.nbytes <= limit for batch in batches)
    else:
        assert len(batches) == any(counts)
    for batch in batches:
        _C.cuda_launch(0, 0, batch, torch.frombuffer(batch, dtype=torch.uint8).data_ptr())
    for n, tensor in enumerate(tensors):
        assert same(tensor, filled(counts[n], torch.float32, NORMAL, 3, n, n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_are_written_by_whole_units(driver: fake_cuda.FakeDriver, dtype: torch.dtype) -> None:
    """A rank's columns of a matrix, as by Shard(1) and RowwiseParallel: rows of the memory that lie
    apart in the index. Units that begin in the middle of a row are written in parts."""
    per_unit = 16 // dtype.itemsize
    rows, whole, own = 50, 16 * per_unit, 4 * per_unit
    for first, writes in ((own, rows * 4), (own + 1, rows * own)):
        tensor = torch.zeros(rows, own, dtype=dtype)
        box = ((rows, own, whole), (own, 1, 1))
        row = list(segment(tensor, NORMAL, 5, 6, first))
        row[6] = box
        driver.forget()
        fill([tuple(row)], isa="cuda")
        [launch] = driver.launches
        assert launch.written == tensor.numel() * dtype.itemsize
        assert launch.writes == writes
        expected = filled(rows * whole, dtype, NORMAL, 5, 6)
        assert same(tensor, expected.view(rows, whole)[:, first : first + own].contiguous())


def test_a_tile_is_some_units_and_there_are_enough_tiles() -> None:
    def tiles(n: int) -> int:
        [batch] = _C.cuda_pack([(_C.NORMAL, _C.FLOAT32, 4096, 0, 0, 0, n, 0.0, 1.0, 0.0, 0.0)])
        return batch.tiles

    assert tiles(1) == 1
    assert tiles(1024) == 1
    assert tiles(2**20) == 1024  # a unit for each of 256 threads
    assert tiles(2**28) == 2**28 // 4 // 4096
    assert tiles(2**50) <= 2**31 - 1  # of a grid


def test_nonsense_is_refused_as_for_the_cpu() -> None:
    tensor = torch.zeros(8)
    good = segment(tensor, NORMAL)
    with pytest.raises(_C.OverlapError, match="write the same memory"):
        _C.cuda_pack([good, good])
    with pytest.raises(ValueError, match="segment 1: unknown kind"):
        _C.cuda_pack([good, (9, *good[1:])])
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match=r"tile_units must be in \[0, 2\^32\)"):
            _C.cuda_pack([good], 0, wrong)
    too_long = (_C.NORMAL, _C.FLOAT16, 4096, 0, 0, 0, 2**60, 0.0, 1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="more than a GPU addresses"):
        _C.cuda_pack([too_long])


# --- the driver -----------------------------------------------------------------------------------


def test_a_launch_says_where(driver: fake_cuda.FakeDriver) -> None:
    tensor = torch.zeros(5000)
    [batch] = _C.cuda_pack([segment(tensor, NORMAL)])
    _C.cuda_launch(1, 0x5EED, batch)
    [launch] = driver.launches
    assert (launch.device, launch.stream, launch.threads) == (1, 0x5EED, 256)
    assert launch.blocks == batch.tiles
    assert driver.contexts == 0  # the caller's context is what it was
    assert driver.loaded_relaxed  # a capture elsewhere forbids no loading
    assert driver.capture_mode == 0


@pytest.mark.parametrize(
    ("function", "code", "message"),
    [
        ("cuLaunchKernel", 2, "launching on CUDA device 0: CUDA_ERROR_OUT_OF_MEMORY: out of mem"),
        ("cuCtxPushCurrent_v2", 1, "entering the CUDA context: CUDA_ERROR_INVALID_VALUE"),
        ("cuPointerGetAttribute", 1, "is not memory of a GPU: CUDA_ERROR_INVALID_VALUE: invalid"),
        ("cuPointerGetAttribute", 700, r"^segment at pointer \d+: CUDA error 700$"),
        ("cuLaunchKernel", 719, "launching on CUDA device 0: CUDA error 719"),
    ],
)
def test_errors_of_a_launch(
    driver: fake_cuda.FakeDriver, function: str, code: int, message: str
) -> None:
    tensor = torch.zeros(100)
    driver.fail(function, code)
    with pytest.raises(_C.CudaError, match=message):
        fill([segment(tensor, NORMAL)], isa="cuda")
    assert driver.contexts == 0
    assert not tensor.any()
    assert not driver.launches


def test_other_memory_and_devices_not_loaded(driver: fake_cuda.FakeDriver) -> None:
    [batch] = _C.cuda_pack([(_C.NORMAL, _C.FLOAT32, 0x1000, 0, 0, 0, 9, 0.0, 1.0, 0.0, 0.0)])
    with pytest.raises(_C.CudaError, match="pointer 4096 is not memory of a GPU: CUDA_ERROR_INV"):
        _C.cuda_launch(0, 0, batch)
    with pytest.raises(_C.CudaError, match="CUDA device 7: its kernel was not loaded"):
        _C.cuda_launch(7, 0, batch)
    many = [torch.zeros(10) for _ in range(100)]
    [long] = _C.cuda_pack([segment(tensor, NORMAL) for tensor in many])
    with pytest.raises(_C.CudaError, match="too long for the arguments of a kernel"):
        _C.cuda_launch(0, 0, long)


ERRORS = [  # in this order: what was loaded is not loaded again
    ("cuInit", 100, "starting the CUDA driver: CUDA_ERROR_NO_DEVICE: no CUDA-capable device"),
    ("cuDeviceGet", 100, "CUDA device 5: CUDA_ERROR_INVALID_DEVICE: invalid device ordinal"),
    ("cuDevicePrimaryCtxRetain", 2, "context of CUDA device 0: CUDA_ERROR_OUT_OF_MEMORY"),
    *(
        ("cuModuleLoadData", code, "NoKernelError loading the kernel on CUDA device 0")
        for code in (200, 209, 218, 221, 222, 223, 300)
    ),
    ("cuModuleLoadData", 2, "CudaError loading the kernel on CUDA device 0"),
    ("cuModuleGetFunction", 1, "finding the kernel on CUDA device 0"),
]


def test_errors_of_loading(fake_driver: fake_cuda.FakeDriver) -> None:
    """Each is told, and the next attempt begins anew; the last succeeds."""
    done = fake_cuda.run(
        fake_driver.path,
        f"""
        for function, code, _ in {ERRORS!r}:
            driver.fail(function, code)
            try:
                _C.cuda_load(5 if function == "cuDeviceGet" else 0, b"image")
            except _C.CudaError as error:
                print(type(error).__name__, error)
        driver.fail("", 0)
        _C.cuda_load(0, b"image")
        """,
    )
    lines = done.splitlines()
    assert len(lines) == len(ERRORS)
    for line, (_, _, message) in zip(lines, ERRORS, strict=True):
        assert message in line
