"""The recorder gives back every reference: however a plan ends, nothing stays alive for it."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

import fastinit
from fastinit import _C, fused, init
from fastinit.capture.opened import opened

ARGUMENTS = (0.25, 0.125)  # held by records as long as they wait
Made = list[Tensor]


def ends_well() -> Made:
    with fused(seed=1) as plan:
        layer = nn.Linear(3, 3)
        x = torch.empty(4).normal_(*ARGUMENTS).mul_(2)
        y = x.clone().half()
        plan.add_root(layer)
        plan.manifest()
    return [layer.weight, x, y]


def is_abandoned() -> Made:
    layer = nn.Linear(3, 3)
    with suppress(LookupError), opened(layer):
        init.normal_(layer.weight, *ARGUMENTS)
        init.zeros_(layer.weight[1])
        raise LookupError
    return [layer.weight]


def fails_in_the_middle() -> Made:
    layers = nn.Sequential(*[nn.Linear(3, 3) for _ in range(3)])
    with suppress(ValueError), fastinit.fan_groups({"1.weight": 2}), fused() as plan:
        plan.add_root(layers)
        for layer in layers:
            init.kaiming_normal_(layer.weight)
    return [layer.weight for layer in layers]


def refuses_a_layer() -> Made:
    model = fastinit.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.init_cfg = {"type": "Xavier", "layer": ["Linear", "BatchNorm1d"]}
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        model.init_weights()
    return list(model.parameters())


def is_interrupted() -> Made:
    x = torch.empty(4)
    with suppress(KeyboardInterrupt), fused():
        init.normal_(x, *ARGUMENTS)
        raise KeyboardInterrupt
    return [x]


def loses_its_memory() -> Made:
    """A handle from before the block, which nobody watches."""
    x, y = torch.empty(4), torch.empty(4)
    storage = x.untyped_storage()

    def fill_and_resize() -> None:
        init.normal_(y, 9.0, 0.125)
        init.normal_(x, *ARGUMENTS)
        storage.resize_(0)

    with pytest.raises(RuntimeError, match="has lost its memory: its storage of 0 bytes"), fused():
        fill_and_resize()
    assert y.mean() > 8
    return [x, y]


def is_never_finished() -> Made:
    recorder = _C.Recorder(True, 1, None)
    x = torch.empty(5)
    recorder.allocated(x)
    recorder.add_name("x", x)
    x.recorder = recorder  # type: ignore[attr-defined]  # a cycle
    return [x]


def test_what_a_recorder_is_given_is_read_again() -> None:
    recorder = _C.Recorder(True, 7, None)
    assert (recorder.seed, recorder.prefix, recorder.streams) == (7, "", [])
    recorder.seed, recorder.prefix, recorder.streams = 2**64 - 1, "a.", [(0, 5), (1, 2**40)]
    assert (recorder.seed, recorder.prefix) == (2**64 - 1, "a.")
    assert recorder.streams == [(0, 5), (1, 2**40)]
    with pytest.raises((TypeError, OverflowError)):
        recorder.seed = "7"  # type: ignore[assignment]
    assert recorder.seed == 2**64 - 1


@pytest.fixture
def young() -> Iterator[None]:
    """Collections look at what the test makes alone, and take no time for what others imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(
    "scenario",
    [
        ends_well,
        is_abandoned,
        fails_in_the_middle,
        refuses_a_layer,
        is_interrupted,
        loses_its_memory,
        is_never_finished,
    ],
)
def test_nothing_stays(scenario: Callable[[], Made], young: None) -> None:
    shared = [ARGUMENTS, Tensor, nn.Parameter, init.normal_, ARGUMENTS[0]]
    scenario()
    gc.collect()
    before = [sys.getrefcount(value) for value in shared]
    objects = len(gc.get_objects())
    for _ in range(20):
        gone = [weakref.ref(tensor) for tensor in scenario()]
        gc.collect()
        assert [ref() for ref in gone] == [None] * len(gone)
    after = [sys.getrefcount(value) for value in shared]
    assert all(abs(now - then) < 8 for now, then in zip(after, before, strict=True))
    assert len(gc.get_objects()) - objects < 200


def test_a_plan_that_is_kept_keeps_no_nameless_memory() -> None:
    with fused() as plan:
        x = torch.empty(9).normal_()
    gone = weakref.ref(x)
    del x
    assert gone() is None
    assert plan.manifest().tensors[0].name == "#0"


def test_a_long_block_does_not_keep_what_code_has_dropped() -> None:
    """A megabyte a step, and more than is kept before the plan looks whether anybody has it."""
    gone = []
    with fused():
        for n in range(60):
            x = torch.ones(1 << 18).add_(n) if n % 2 else torch.empty(1 << 18).normal_()
            gone.append(weakref.ref(x))
        alive = sum(ref() is not None for ref in gone)
    assert alive < 30
