"""Ctrl-C during a fill: it ends early, nothing is left behind, and the next one works."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from types import FrameType

import pytest
import torch
from filling import Rule, filled, same, segment

from fastinit import _C, BaseModule
from fastinit.plan.current import current

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no os.kill of this kind there")

SLOW = Rule("trunc_normal", (0.0, 1.0, -2.0, 2.0))  # by scalar code: a second or more for N
N = 1 << 25
UNTOUCHED = -7.0  # outside the window


@pytest.fixture(autouse=True)
def ctrl_c_raises() -> Iterator[None]:
    """Python's own handler, which it does not install where it was started in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@contextmanager
def ctrl_c_once_written(tensor: torch.Tensor) -> Iterator[None]:
    """SIGINT to this process as soon as the block's fill has written the tensor's first element."""

    def send() -> None:
        while tensor[0].item() == UNTOUCHED and not over.wait(1e-3):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    over = threading.Event()
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()


def untouched() -> torch.Tensor:
    return torch.full((N,), UNTOUCHED)


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_fill_early(threads: int) -> None:
    before = filled(1000, torch.float32, SLOW, 1, 2)
    tensor = untouched()
    with pytest.raises(KeyboardInterrupt), ctrl_c_once_written(tensor):
        _C.fill([segment(tensor, SLOW, 1, 2)], threads, "scalar")
    left = int((tensor == UNTOUCHED).sum())
    assert 0 < left < N
    assert same(tensor[:1000], before)
    settled = tensor.clone()
    assert same(filled(1_000_000, torch.float32, SLOW, 1, 2, threads=2)[:1000], before)
    assert same(tensor, settled), "a thread went on writing"


def test_a_handler_that_does_not_raise_changes_nothing() -> None:
    handled: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        handled.append(int((tensor == UNTOUCHED).sum()))

    tensor = untouched()
    previous = signal.signal(signal.SIGINT, handler)
    try:
        with ctrl_c_once_written(tensor):
            _C.fill([segment(tensor, SLOW, 1, 2)], 2, "scalar")
    finally:
        signal.signal(signal.SIGINT, previous)
    assert handled[0] > 0, "handled during the fill"
    assert same(tensor, filled(N, torch.float32, SLOW, 1, 2, threads=2))


def test_a_fill_on_another_thread_is_not_interrupted() -> None:
    tensor = untouched()
    with ThreadPoolExecutor(1) as pool:
        fill = pool.submit(_C.fill, [segment(tensor, SLOW, 1, 2)], 1, "scalar")
        with pytest.raises(KeyboardInterrupt), ctrl_c_once_written(tensor):
            fill.result()
        fill.result()
    assert same(tensor, filled(N, torch.float32, SLOW, 1, 2, threads=2))


class Model(BaseModule):
    def __init__(self) -> None:
        super().__init__(init_cfg=dict(type="TruncNormal", layer="Linear", std=1.0, a=-2.0, b=2.0))
        self.first = torch.nn.Linear(N >> 10, 1 << 9, bias=False)
        self.second = torch.nn.Linear(1 << 9, N >> 10, bias=False)
        for parameter in self.parameters():
            parameter.data.fill_(UNTOUCHED)


class OwnModel(Model):
    def init_weights(self) -> None:
        super().init_weights()


@pytest.fixture(scope="module")
def slowly() -> Iterator[Callable[..., None]]:
    """Calls a function in a process where every fill is by scalar code, as no call can ask for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTINIT_ISA", "scalar")
        patch.setenv("FASTINIT_BACKEND", "native")
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield lambda function, *arguments: pool.submit(function, *arguments).result()


def interrupt_and_call_again(kind: type[Model]) -> None:
    assert _C.default_isa() == "scalar"
    model, undisturbed = kind(), kind()
    torch.manual_seed(3)
    undisturbed.init_weights()

    with (
        pytest.raises(KeyboardInterrupt),
        ctrl_c_once_written(model.first.weight.data.view(-1)),
    ):
        model.init_weights()
    assert (model.second.weight == UNTOUCHED).any()
    assert current() is None
    assert not model.is_init
    torch.manual_seed(3)
    model.init_weights()
    for (name, parameter), expected in zip(
        model.named_parameters(), undisturbed.parameters(), strict=True
    ):
        assert same(parameter, expected), name


@pytest.mark.parametrize("kind", [Model, OwnModel])
def test_init_weights_can_be_interrupted_and_called_again(
    kind: type[Model], slowly: Callable[..., None]
) -> None:
    slowly(interrupt_and_call_again, kind)


class Timeout(ValueError):
    """Of a kind that a fill itself raises."""


def raise_from_a_handler() -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        raise Timeout

    model = Model()
    previous = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(Timeout), ctrl_c_once_written(model.first.weight.data.view(-1)):
            model.init_weights()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert (model.second.weight == UNTOUCHED).any()
    assert not model.is_init


def test_what_a_handler_raises_is_not_taken_for_the_fills_own(slowly: Callable[..., None]) -> None:
    slowly(raise_from_a_handler)
