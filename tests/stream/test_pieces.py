"""The quantile's outer pieces: to either side of where one begins, the text decides the bits."""

from __future__ import annotations

import math

import pytest
import torch
from filling import Rule, bits, filled
from scipy.special import ndtri
from stream_text import draw

N = 400


@pytest.mark.parametrize(
    ("dtype", "edge"),
    [("float32", 4.75), ("float64", 4.25), ("float64", 6.5), ("float64", 12.5)],
)
@pytest.mark.parametrize("side", [-1, 1])
def test_bits_around_the_edge_of_a_piece(dtype: str, edge: float, side: int, cpu_isa: str) -> None:
    """Where s = sqrt(-log q) is `edge`, x is the quantile of q / 4, to first order."""
    near, far = (-float(ndtri(math.exp(-(s**2)) / 4)) for s in (edge - 0.05, edge + 0.05))
    window = (near, far) if side > 0 else (-far, -near)
    parameters = (0.0, 1.0, *window)
    expected = draw("trunc_normal", dtype, list(parameters), 5, 6, 0, N)
    found = filled(N, getattr(torch, dtype), Rule("trunc_normal", parameters), 5, 6, isa=cpu_isa)
    unsigned = 0xFFFFFFFF if dtype == "float32" else 0xFFFFFFFFFFFFFFFF
    assert [int(word) & unsigned for word in bits(found)] == expected
