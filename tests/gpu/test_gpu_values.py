"""What a GPU writes is what the CPU writes, bit by bit."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from launching import (
    CONSTANT,
    DTYPES,
    GPU,
    NORMAL,
    ROOT,
    RULES,
    WORDS,
    Region,
    Rule,
    fill,
    fill_cpu,
    fill_in_tiles,
    mixed,
    pair,
    row,
    same,
    seeded,
)
from torch import nn

from fastinit import _C, init
from fastinit.capture.opened import opened

if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU", allow_module_level=True)

GOLDEN = json.loads((ROOT / "tests/vectors/stream_v1.json").read_text(encoding="utf-8"))
KINDS = {
    "constant": _C.CONSTANT,
    "uniform": _C.UNIFORM,
    "normal": _C.NORMAL,
    "trunc_normal": _C.TRUNC_NORMAL,
    "words": _C.WORDS,
}


def golden(entry: dict[str, Any]) -> torch.Tensor:
    name = entry["dtype"]
    dtype = torch.int32 if name == "uint32" else getattr(torch, name)
    values = np.array([int(value, 16) for value in entry["values"].split()], dtype=np.uint64)
    narrow = values.astype(f"u{dtype.itemsize}").view(f"i{dtype.itemsize}")
    return torch.from_numpy(narrow).view(dtype)


@pytest.mark.sanitized
def test_golden_vectors() -> None:
    wrong = []
    for entry in GOLDEN:
        expected = golden(entry)
        found = torch.empty(expected.shape, dtype=expected.dtype, device=GPU)
        rule = Rule(KINDS[entry["kind"]], tuple(map(float, entry["parameters"])))
        keys = {"seed": int(entry["seed"], 16), "stream": int(entry["stream"], 16)}
        fill([row(found, rule, entry["start"], **keys)])
        if not same(found, expected):
            wrong.append({key: entry[key] for key in entry if key != "values"})
    assert not wrong
    assert len(GOLDEN) > 100


# Values below each dtype's smallest normal number, too.
SPECIAL = {
    torch.float32: 1e-39,
    torch.bfloat16: 1e-39,
    torch.float16: 3e-6,
    torch.float64: 1e-309,
}


def rules(dtype: torch.dtype) -> list[Rule]:
    tiny = SPECIAL[dtype]
    return [
        *RULES,
        Rule(_C.CONSTANT, (-0.0,)),
        Rule(_C.CONSTANT, (tiny,)),
        Rule(_C.UNIFORM, (0.0, 1.0)),
        Rule(_C.UNIFORM, (3.0, 3.1)),
        Rule(_C.UNIFORM, (-tiny, tiny)),
        Rule(_C.NORMAL, (-3.0, 0.1)),
        Rule(_C.NORMAL, (7.0, 0.0)),
        Rule(_C.NORMAL, (0.0, tiny)),
        Rule(_C.TRUNC_NORMAL, (1.0, 2.0, -1.0, 1.5)),
        Rule(_C.TRUNC_NORMAL, (0.0, 1.0, 5.0, 6.0)),
        Rule(_C.TRUNC_NORMAL, (0.0, 1.0, -9.0, -8.0)),
        Rule(_C.TRUNC_NORMAL, (0.0, 1.0, -10.0, 10.0)),
        Rule(_C.TRUNC_NORMAL, (0.0, 1.0, -math.inf, 1.0)),
        Rule(_C.TRUNC_NORMAL, (0.0, tiny, -2 * tiny, 2 * tiny)),
    ]


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_rule(dtype: torch.dtype) -> None:
    for rule in rules(dtype):
        for n in (1, 5, 1000, 70_003):
            found, expected = pair(n, dtype)
            fill([row(found, rule, start=3)])
            fill_cpu([row(expected, rule, start=3)])
            assert same(found, expected), (rule, n)


def test_subnormal_results_are_among_them() -> None:
    for dtype in DTYPES:
        found, _ = pair(1000, dtype)
        fill([row(found, Rule(_C.NORMAL, (0.0, SPECIAL[dtype])))])
        wide = found.cpu().double().abs()
        assert bool(((wide > 0) & (wide < torch.finfo(dtype).tiny)).any()), dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", [*RULES, Rule(_C.TRUNC_NORMAL, (0.0, 1.0, -8.0, 8.0))], ids=str)
def test_large(dtype: torch.dtype, rule: Rule) -> None:
    n = (1 << 26) + 5
    found, expected = pair(n, dtype)
    fill([row(found, rule, start=2)])
    fill_cpu([row(expected, rule, start=2)])
    assert same(found, expected)


@pytest.mark.parametrize("rule", [CONSTANT, NORMAL], ids=str)
def test_more_elements_than_32_bits_count(rule: Rule) -> None:
    n = (1 << 32) + 100
    if torch.cuda.mem_get_info(GPU)[0] < 3 * n:
        pytest.skip("needs 12 GB of free device memory")
    found = torch.full((n,), 7, dtype=torch.float16, device=GPU)
    fill([row(found, rule)])
    for start in (0, (1 << 31) - 50, (1 << 32) - 1000, n - 1000):
        expected = torch.empty(1000, dtype=torch.float16)
        fill_cpu([row(expected, rule, start)])
        assert same(found[start : start + 1000], expected), start


# --- logical index, alignment, tiles --------------------------------------------------------------


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_starts_where_a_counter_overflows(dtype: torch.dtype) -> None:
    for rule in RULES:
        for boundary in (2**33, 2**34, 2**35, 2**62):
            for before in (1, 3, 40, 2000, 4096):
                found, expected = pair(6000, dtype)
                fill([row(found, rule, boundary - before)])
                fill_cpu([row(expected, rule, boundary - before)])
                assert same(found, expected), (rule, boundary, before)


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int32], ids=str)
def test_any_alignment_and_nothing_outside(dtype: torch.dtype) -> None:
    for rule in [WORDS] if dtype == torch.int32 else RULES:
        cases = [
            (n, shift, start)
            for n in (1, 2, 7, 100, 4099)
            for shift in range(9)
            for start in (0, 1, 2, 7)
        ]
        sides = []
        for device in (GPU, torch.device("cpu")):
            regions = [Region(n, dtype, shift, device) for n, shift, _ in cases]
            table = [
                row(region.tensor, rule, start)
                for region, (_, _, start) in zip(regions, cases, strict=True)
            ]
            (fill if device == GPU else fill_cpu)(table)
            sides.append(torch.cat([region.bytes for region in regions]).cpu())
        assert torch.equal(*sides), rule


@pytest.mark.sanitized
@pytest.mark.parametrize("tile_units", [1, 7, 256, 1000, 4096, 10**6])
@pytest.mark.parametrize("limit", [0, 3000], ids=["one batch", "several"])
def test_tiles_and_batches_do_not_matter(tile_units: int, limit: int) -> None:
    found, table = mixed(100, 1, GPU)
    expected, cpu_table = mixed(100, 1, torch.device("cpu"))
    fill_in_tiles(table, tile_units, limit)
    fill_cpu(cpu_table)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.bytes.cpu(), b.bytes)


@pytest.mark.sanitized
def test_a_mixed_table() -> None:
    found, table = mixed(1000, 2, GPU)
    expected, cpu_table = mixed(1000, 2, torch.device("cpu"))
    fill(table)
    fill_cpu(cpu_table)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.bytes.cpu(), b.bytes)


# --- views ----------------------------------------------------------------------------------------

SHAPE = (6, 10, 12, 9)
VIEWS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.permute(3, 2, 1, 0),
    "permuted": lambda t: t.permute(0, 2, 3, 1),
    "a slice of rows": lambda t: t[1:5],
    "columns": lambda t: t[..., 2:7],
    "one column": lambda t: t[..., 4],
    "every other": lambda t: t[::2, 1::3, :, ::4],
    "an element": lambda t: t[2, 3, 4, 5],
    "none": lambda t: t[:, 3:3],
}


def tensors(dtype: torch.dtype, form: torch.memory_format) -> list[torch.Tensor]:
    """The same poisoned tensor on the GPU and on the CPU."""
    return [
        torch.full(SHAPE, 7, dtype=dtype, device=device).to(memory_format=form)
        for device in (GPU, torch.device("cpu"))
    ]


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("view", VIEWS)
def test_views(dtype: torch.dtype, form: torch.memory_format, view: str) -> None:
    for function in (init.normal_, init.uniform_, init.ones_, init.trunc_normal_):
        found, expected = tensors(dtype, form)
        for tensor in (found, expected):
            torch.manual_seed(0)
            function(VIEWS[view](tensor))
        assert same(found, expected), function.__name__


@pytest.mark.sanitized
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("view", VIEWS)
def test_views_of_parameters_continue_their_stream(form: torch.memory_format, view: str) -> None:
    found, expected = tensors(torch.float32, form)
    for tensor in (found, expected):
        module = nn.Module()
        module.weight = nn.Parameter(tensor)
        torch.manual_seed(0)
        with opened(module):
            init.zeros_(module.weight)
            init.normal_(VIEWS[view](module.weight.data), std=0.02)
    assert same(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_large_transposed_matrix_and_a_column_of_it(dtype: torch.dtype) -> None:
    found, expected = (
        torch.full((4099, 5003), 7, dtype=dtype, device=device).t()
        for device in (GPU, torch.device("cpu"))
    )
    for tensor in (found, expected):
        seeded(lambda tensor=tensor: init.normal_(tensor))
        seeded(lambda tensor=tensor: init.uniform_(tensor[:, 17:19]), 1)
    assert same(found, expected)
