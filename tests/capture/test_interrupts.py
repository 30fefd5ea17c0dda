"""An interrupt at any line leaves nothing of a plan behind: the trace function raises at each."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import fastinit
from fastinit import fused, init
from fastinit.capture.compiler import stance
from fastinit.capture.replacements import exchange
from fastinit.plan.current import current
from fastinit.tensors import torch_private

INITIALISERS = {name: getattr(nn.init, name) for name in ("normal_", "ones_", "trunc_normal_")}


def fills() -> None:
    with fused(seed=3) as plan:
        layer = nn.Linear(2, 2)
        x = init.normal_(torch.empty(4))
        nn.init.ones_(x[:2])
        x.mul_(2).half()
        plan.add_root(layer)
        x.sum()


def is_built() -> None:
    fastinit.build(lambda: nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), seed=1)


def init_weights() -> None:
    model = fastinit.Sequential(nn.Linear(2, 2), fastinit.ModuleList([nn.Linear(2, 2)]))
    model.init_cfg = {"type": "Normal", "layer": "Linear"}
    model.init_weights()


def interrupted_at(line: int, program: Callable[[], None]) -> bool:
    """Run the program and raise at a line of fastinit's, by number; return whether there is one."""
    left = line
    entered: set[tuple[int, int]] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if "/fastinit/" not in frame.f_code.co_filename:
            return None
        if event == "line" and not _leaves_a_with(frame, entered):
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        program()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return left < 0


def _leaves_a_with(frame: FrameType, entered: set[tuple[int, int]]) -> bool:
    """Whether a `with` is about to call `__exit__`: there Python takes no signal, but it traces."""
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    here = id(frame), frame.f_lineno
    if not text.startswith("with ") or here not in entered:
        entered.add(here)
        return False
    return True


def drawn() -> torch.Tensor:
    with fused(seed=5):
        return init.normal_(torch.empty(3))


@pytest.mark.parametrize("program", [fills, is_built, init_weights])
def test_every_line(program: Callable[[], None]) -> None:
    expected = drawn()
    program()  # what is imported late is imported
    line = 0
    torch.manual_seed(0)
    state = torch.get_rng_state()
    while interrupted_at(line, program):
        where = f"after an interrupt at line event {line}"
        assert torch_private.function_modes() == [], where
        assert not torch._C._is_torch_function_all_disabled(), where
        assert current() is None, where
        assert not exchange.known, where
        assert not stance.is_held, where
        assert {name: getattr(nn.init, name) for name in INITIALISERS} == INITIALISERS, where
        if program is not init_weights:  # which draws its seed
            assert torch.equal(torch.get_rng_state(), state), where
        line += 1
    assert line > 100
    assert torch.equal(drawn(), expected)


def test_a_mode_that_was_left_behind_sees_nothing() -> None:
    block = fused()
    plan = block.__enter__()
    mode = torch_private.function_modes()[-1]
    block.__exit__(None, None, None)
    torch_private.push_mode(mode)
    try:
        w = torch.ones(3)
        w.fill_(2.0)
        assert w.half().tolist() == [2.0] * 3
        with fused():
            assert mode not in torch_private.function_modes(), "the next plan cleans up"
            w.fill_(3.0)
        assert w.tolist() == [3.0] * 3
    finally:
        torch_private.remove_modes(lambda each: each is mode)
    assert not plan.is_open
