"""Processes and threads: fills after and during a fork, in DataLoader's workers, and several at
once."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from filling import Rule, filled, same, segment
from torch.utils.data import DataLoader, Dataset

from fastinit import _C, BaseModule, init

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
SIZE = 700  # a SIZE by SIZE matrix is enough for three threads


class Model(BaseModule):
    def __init__(self) -> None:
        super().__init__(
            init_cfg=[
                dict(type="TruncNormal", layer="Linear", std=0.02, bias=1.0),
                dict(type="Xavier", layer="Conv2d", distribution="uniform"),
            ]
        )
        self.linear = torch.nn.Linear(SIZE, SIZE)
        self.conv = torch.nn.Conv2d(64, SIZE, 3)


def digest(tensors: list[torch.Tensor]) -> str:
    """Of their bytes; by hashlib, since torch's own parallel loops hang in a forked child."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.detach().numpy().tobytes())
    return whole.hexdigest()


def initialised(seed: int) -> str:
    torch.manual_seed(seed)
    model = Model()
    model.init_weights()
    alone = init.normal_(torch.empty(SIZE, SIZE), generator=torch.Generator().manual_seed(seed))
    return digest([*model.parameters(), alone])


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# --- fork -----------------------------------------------------------------------------------------


def succeeds_in_child(task: Callable[[], bool]) -> bool:
    """Whether the task is true in a forked child, which has a minute for it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if task() else 3
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@needs_fork
def test_a_child_can_fill_after_its_parent_used_threads(cpu_isa: str) -> None:
    def fill() -> str:
        tensor = torch.empty(1_000_000)
        _C.fill([segment(tensor, Rule("normal", (0.0, 1.0)))], 2, cpu_isa)
        return digest([tensor])

    expected = fill()
    assert succeeds_in_child(lambda: fill() == expected)
    assert fill() == expected


@needs_fork
@pytest.mark.usefixtures("two_threads")
def test_a_child_can_initialise_after_its_parent_did() -> None:
    expected = initialised(5)
    torch.rand(1 << 22).exp_()  # torch's own threads, which no child inherits
    assert succeeds_in_child(lambda: initialised(5) == expected)
    assert initialised(5) == expected


@needs_fork
@pytest.mark.usefixtures("two_threads")
def test_a_child_can_initialise_while_its_parent_is_filling() -> None:
    expected = initialised(5)
    rule = Rule("trunc_normal", (0.0, 1.0, -2.0, 2.0))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(filled, 20_000_000, torch.float32, rule, threads=2, isa="scalar")
        assert succeeds_in_child(lambda: initialised(5) == expected)
        running.result()


class Initialised(Dataset[str]):
    """Item n is the digest of what is initialised from seed n, in the worker that is asked."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, n: int) -> str:
        torch.set_num_threads(2)  # a worker begins with one
        return initialised(n)


@needs_fork
@pytest.mark.usefixtures("two_threads")
def test_dataloader_workers_can_initialise() -> None:
    expected = [initialised(n) for n in range(4)]
    loader = DataLoader(
        Initialised(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    assert list(loader) == expected


# --- several Python threads -----------------------------------------------------------------------


def test_python_threads_may_fill_at_once(cpu_isa: str) -> None:
    rule = Rule("trunc_normal", (0.0, 1.0, -2.0, 2.0))

    def task(stream: int) -> torch.Tensor:
        return filled(400_000, torch.float32, rule, 1, stream % 4, threads=2, isa=cpu_isa)

    expected = [task(stream) for stream in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for stream, got in enumerate(pool.map(task, range(24))):
            assert same(got, expected[stream % 4])


def at_once(*tasks: Callable[[], object]) -> None:
    """Run the tasks, a thread each, from a common start."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> None:
        barrier.wait()
        task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        for done in [pool.submit(run, task) for task in tasks]:
            done.result()


@pytest.mark.usefixtures("two_threads")
def test_models_initialised_at_once_are_as_one_after_the_other() -> None:
    def in_turn(first: Model, second: Model, seed: int) -> None:
        torch.manual_seed(seed)
        first.init_weights()
        second.init_weights()

    for seed in range(10):
        models = [Model() for _ in range(6)]
        in_turn(models[0], models[1], seed)
        in_turn(models[3], models[2], seed)
        torch.manual_seed(seed)
        at_once(models[4].init_weights, models[5].init_weights)
        pairs = [
            tuple(digest(list(model.parameters())) for model in models[n : n + 2])
            for n in (0, 2, 4)
        ]
        # Whichever begins first draws the first seed.
        assert pairs[2] in pairs[:2]


@pytest.mark.usefixtures("two_threads")
def test_tensors_filled_at_once_are_as_one_after_the_other() -> None:
    def fill(tensor: torch.Tensor, seed: int) -> None:
        for n in range(20):
            init.normal_(tensor[n], generator=torch.Generator().manual_seed(seed + n))

    for _ in range(5):
        expected, got = torch.empty(4, 20, 300_000).unbind(), torch.empty(4, 20, 300_000).unbind()
        for n, tensor in enumerate(expected):
            fill(tensor, 100 * n)
        at_once(*(partial(fill, tensor, 100 * n) for n, tensor in enumerate(got)))
        for n in range(4):
            assert same(got[n], expected[n])


@pytest.mark.usefixtures("two_threads")
def test_a_fill_outside_does_not_join_another_threads_plan() -> None:
    for seed in range(10):
        generator = torch.Generator()
        model = Model()
        expected = init.uniform_(
            torch.empty(SIZE, SIZE), generator=generator.manual_seed(seed)
        ).clone()
        torch.manual_seed(seed)
        model.init_weights()
        reference = digest(list(model.parameters()))
        model = Model()
        tensor = torch.empty(SIZE, SIZE)
        torch.manual_seed(seed)
        at_once(
            model.init_weights,
            partial(init.uniform_, tensor, generator=generator.manual_seed(seed)),
        )
        assert digest(list(model.parameters())) == reference
        assert same(tensor, expected)
