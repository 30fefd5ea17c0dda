"""What every test file shares: the fixtures, and the hypothesis profiles.

`pytest --hypothesis-profile=deep` looks for new failures (random, many examples); the default,
"ci", is small and gives the same examples every time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import fake_cuda
import hypothesis
import pytest
import torch

import fastinit
from fastinit import _C
from fastinit.kernels import table
from fastinit.tensors import torch_private
from fastinit.tensors.parts import parts

hypothesis.settings.register_profile("ci", derandomize=True, max_examples=30, deadline=None)
hypothesis.settings.register_profile("deep", max_examples=1000, deadline=None)
hypothesis.settings.register_profile("fuzz", max_examples=100_000, deadline=None)
hypothesis.settings.load_profile("ci")

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--by-methods",
        action="store_true",
        help="let the recorder read tensors by their methods, as where torch has no exchange table",
    )
    parser.addoption(
        "--thorough", action="store_true", help="try what otherwise is tried in a part of its cases"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--by-methods"):
        _C.bind({**torch_private.for_recorder(), "parts": parts, "exchange": None})


# Session scope: hypothesis refuses function-scoped fixtures, which it could not renew for each
# example.
@pytest.fixture(scope="session", params=_C.isas())
def cpu_isa(request: pytest.FixtureRequest) -> str:
    """Every instruction set of this machine, by name."""
    name: str = request.param
    return name


# Where there is a driver, tests/gpu runs on it, and the stand-in would be in its way.
STAND_IN = ["cuda"] if sys.platform == "linux" and not torch.cuda.is_available() else []


@pytest.fixture(scope="session", params=[*_C.isas(), *STAND_IN])
def isa(request: pytest.FixtureRequest) -> str:
    """The same, and the kernel for GPUs on a stand-in for a driver (`filling.fill`)."""
    name: str = request.param
    if name == "cuda":
        request.getfixturevalue("fake_driver")
    return name


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> fake_cuda.FakeDriver:
    """A CUDA driver whose GPU is this process."""
    if not STAND_IN:
        pytest.skip("a real driver is in place")
    return fake_cuda.install(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def mmengine_loggers() -> Iterator[None]:
    """Takes away the loggers of mmengine that a test makes: the latest gets reports of others."""
    instances = pytest.importorskip("mmengine.logging").MMLogger._instance_dict
    before = dict(instances)
    yield
    instances.clear()
    instances.update(before)


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
def fill_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many segments each native fill had, in order."""
    sizes: list[int] = []
    _C.watch(sizes)
    execute = table.execute

    def counted(place: Any, rows: list[tuple[Any, ...]]) -> None:
        sizes.append(len(rows))
        execute(place, rows)

    monkeypatch.setattr(table, "execute", counted)
    yield sizes
    _C.watch(None)


@pytest.fixture
def driver(fake_driver: fake_cuda.FakeDriver) -> Iterator[fake_cuda.FakeDriver]:
    """The driver, with nothing launched and nothing failing."""
    fake_driver.forget()
    yield fake_driver
    fake_driver.fail("", 0)
