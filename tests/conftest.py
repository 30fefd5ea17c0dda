"""What every test file shares: the fixtures, and the hypothesis profiles.

`pytest --hypothesis-profile=deep` looks for new failures (random, many examples); the default,
"ci", is small and gives the same examples every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch

import fastinit
from fastinit import _C, fills

hypothesis.settings.register_profile("ci", derandomize=True, max_examples=30, deadline=None)
hypothesis.settings.register_profile("deep", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("ci")

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


# Session scope: hypothesis refuses function-scoped fixtures, which it could not renew for each
# example.
@pytest.fixture(scope="session", params=_C.isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Every instruction set of this machine, by name."""
    name: str = request.param
    return name


@pytest.fixture(scope="session", params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every floating-point dtype that the native fill writes."""
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture(params=["native", "torch"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend, by name, in use while the test runs."""
    with fastinit.backend(request.param):
        yield request.param


@pytest.fixture
def fill_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many segments each native fill had, in order."""
    sizes: list[int] = []
    execute = fills.execute

    def counted(place: Any, table: list[tuple[Any, ...]]) -> None:
        sizes.append(len(table))
        execute(place, table)

    monkeypatch.setattr(fills, "execute", counted)
    return sizes
