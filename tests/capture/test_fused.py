"""Any code inside `fused` computes what it would compute eagerly, and account is kept of it.

The oracle is the same code with every fill executed at once.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from eager import Eager, constant_draws, recording_in
from hypothesis import given
from hypothesis import strategies as st
from modules import copied, same
from rich.console import Console
from test_capture import PROGRAMS
from torch import Tensor, nn

import fastinit
from fastinit import fused, init
from fastinit.capture import fused as fusing
from fastinit.plan.plan import Plan


@contextmanager
def plan_of(kind: type[Plan]) -> Iterator[Plan]:
    with recording_in(kind), mock.patch.object(fusing, "Plan", kind), fused(seed=99) as plan:
        yield plan


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Embedding(5, 3), nn.Conv2d(2, 4, 3))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("inside", [False, True])
def test_programs(program: Callable[[nn.Module], Any], inside: bool) -> None:
    outcomes = []
    for kind in (Plan, Eager):
        torch.manual_seed(0)
        made = None if inside else model()
        with constant_draws(), plan_of(kind) as plan:
            m = made or model()
            plan.add_root(m)
            result = program(m)
        outcomes.append((str(result), copied(m)))
    (result, state), (expected, expected_state) = outcomes
    assert result == expected
    assert same(state, expected_state)


step = st.tuples(
    st.sampled_from(
        [
            "fill",
            "part",
            "factory",
            "maths",
            "sums",
            "copy",
            "read",
            "view",
            "tie",
            "cast",
            "keep",
            "free",
            "replace",
            "save",
            "parameter",
        ]
    ),
    st.integers(0, 3),
    st.integers(0, 3),
)


CASTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.double().float(),
    lambda x: x.bfloat16(),
    lambda x: x.to(torch.float16),
    lambda x: x.to(torch.device("cpu", 0)),  # another device in name, so that it is moved
    lambda x: x.clone(),
    lambda x: copy.deepcopy(nn.Parameter(x)).data,
]


@given(st.lists(step, max_size=15))
def test_random_programs(steps: list[tuple[str, int, int]]) -> None:
    def run() -> tuple[list[Any], list[Tensor]]:
        tensors = [torch.empty(4, 5) for _ in range(4)]
        for n, t in enumerate(tensors):
            init.constant_(t, n)
        seen: list[Any] = []
        kept: list[Tensor] = []
        for n, (what, k, j) in enumerate(steps):
            x = tensors[k]
            if what == "fill":
                init.normal_(x, n, 1.0)
            elif what == "part":
                x[j].uniform_(n, n + 1)
            elif what == "factory":
                tensors[k] = torch.randn(4, 5) * 0.02
            elif what == "maths":
                x.mul_(j).add_(1)
            elif what == "sums":
                x.cumsum_(0)
            elif what == "copy":
                x.copy_(tensors[j])
            elif what == "read":
                seen.append(x[j].sum().item())
            elif what == "view":
                x.t()[j % 5].fill_(n)
            elif what == "tie":
                tensors[k] = tensors[j].view(4, 5)
            elif what == "cast":
                tensors[k] = CASTS[(n + j) % len(CASTS)](x)
            elif what == "keep":
                kept.append(x)
            elif what == "free":
                tensors[k] = torch.empty(4, 5).normal_(n)
            elif what == "replace":
                x.data = tensors[j].detach().clone()
            elif what == "save":
                seen.append(x.float().numpy().copy().sum())
            else:
                tensors[k] = nn.Parameter(x).data
        return seen, [*tensors, *kept]

    outcomes = []
    for kind in (Plan, Eager):
        with constant_draws(), plan_of(kind):
            seen, tensors = run()
        outcomes.append((seen, [t.clone() for t in tensors]))
    assert outcomes[0][0] == outcomes[1][0]
    for one, other in zip(outcomes[0][1], outcomes[1][1], strict=True):
        assert torch.equal(one, other)


def test_the_torch_backend_is_plain_torch() -> None:
    with fastinit.backend("torch"):
        torch.manual_seed(3)
        with fused():
            inside = model()
            after = torch.rand(3)
    torch.manual_seed(3)
    assert same(copied(inside), copied(model()))
    assert torch.equal(after, torch.rand(3))


# --- seeds ----------------------------------------------------------------------------------------


def test_a_seed_fixes_everything_and_leaves_no_trace() -> None:
    def make() -> nn.Module:
        m = model()
        m.register_parameter("scaled", nn.Parameter(torch.randn(5) * 0.02))
        return m

    torch.manual_seed(1)
    expected_next = torch.rand(3)
    states = []
    for state in (1, 2):
        torch.manual_seed(state)
        states.append(copied(fastinit.build(make, seed=7)))
    assert same(*states)
    torch.manual_seed(1)
    other = copied(fastinit.build(make, seed=2**64 - 1))
    assert not torch.equal(other["scaled"], states[0]["scaled"])
    assert torch.equal(torch.rand(3), expected_next)


def test_without_a_seed_manual_seed_governs() -> None:
    torch.manual_seed(4)
    one, two = fastinit.build(model), fastinit.build(model)
    torch.manual_seed(4)
    assert same(copied(fastinit.build(model)), copied(one))
    assert not torch.equal(one[0].weight, two[0].weight)


def test_seeds_of_nested_blocks() -> None:
    with fused(seed=3) as outer:
        with fused(seed=3) as inner, fused() as innermost:
            assert inner is outer
            assert innermost is outer
        with pytest.raises(ValueError, match="seed=4 inside a plan whose seed is 3"), fused(4):
            pass
    with fused(), pytest.raises(ValueError, match="whose seed was drawn"), fused(seed=1):
        pass
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match=r"seed must be in \[0, 2\*\*64\)"), fused(wrong):
            pass
    with pytest.raises(TypeError, match=r"seed must be an integer, got 1.5"), fused(1.5):  # type: ignore[arg-type]
        pass
    with fused(np.int64(3)) as plan:
        assert type(plan.seed) is int


# --- blocks ---------------------------------------------------------------------------------------


def test_one_fill_at_the_end(fill_sizes: list[int]) -> None:
    with fused():
        m = model()
        nn.init.normal_(m[0].weight)
        assert not fill_sizes
    assert fill_sizes == [5]
    assert 0.3 < m[0].weight.std() < 3


def test_an_exception_leaves_every_tensor_defined() -> None:
    x = torch.empty(5)

    def fails() -> None:
        init.constant_(x, 3.0)
        raise LookupError

    with pytest.raises(LookupError), fused():
        fails()
    assert x.tolist() == [3.0] * 5
    with fused():  # and the thread free for the next
        pass


def test_a_block_is_its_threads() -> None:
    x = torch.zeros(5)
    with fused():
        thread = threading.Thread(target=lambda: x.fill_(2.0))
        thread.start()
        thread.join()
        assert x.tolist() == [2.0] * 5


def test_what_nobody_has_any_more_is_not_filled(fill_sizes: list[int]) -> None:
    with fused():
        head, embedding = nn.Linear(8, 8, bias=False), nn.Embedding(8, 8)
        head.weight = embedding.weight
        kept = torch.empty(3).normal_()
        alias = torch.empty(4).normal_().view(2, 2)
    assert fill_sizes == [3]
    assert kept.std() > 0
    assert alias.std() > 0


def test_init_weights_inside() -> None:
    class Head(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Normal", std=0.01, layer="Linear"))
            self.fc = nn.Linear(30, 30)

    def initialised() -> Head:
        head = Head()
        head.init_weights()
        return head

    with fused(seed=5) as plan:
        head = initialised()
    entry = plan.manifest().named("fc.weight")
    assert entry.fills[0].parameters == {"mean": 0.0, "std": 0.01}
    assert entry.fills[0].origin.startswith("NormalInit")
    assert entry.writes == 2
    assert same(copied(fastinit.build(initialised, seed=5)), copied(head))


def test_compiled_code_and_parametrizations() -> None:
    from torch.nn.utils import parametrize

    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    @torch.compile(backend="eager")
    def scale(x: Tensor) -> Tensor:
        return x * 3

    @torch.compile(backend="eager", fullgraph=True)
    def whole(x: Tensor) -> Tensor:
        return x.normal_() * 0 + x.numel()

    with fused():
        x = torch.empty(4)
        init.constant_(x, 2.0)
        assert scale(x).tolist() == [6.0] * 4
        assert whole(x).tolist() == [4.0] * 4
        layer = nn.Linear(2, 2)
        init.constant_(layer.weight, 1.0)
        parametrize.register_parametrization(layer, "weight", Double())
        assert layer.weight.tolist() == [[2.0, 2.0]] * 2
        init.constant_(layer.parametrizations.weight.original, 5.0)
    assert layer.weight.tolist() == [[10.0, 10.0]] * 2


def test_the_compiler_is_held_for_as_long_as_a_plan_is_open() -> None:
    from torch._dynamo import eval_frame

    def stance() -> str:
        return eval_frame._stance.stance

    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with fused():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with fused():
        thread.start()
        assert entered.wait(10)
        assert stance() == "force_eager"
    assert stance() == "force_eager"
    left.set()
    thread.join()
    assert stance() == "default"
    with fastinit.backend("torch"), fused():
        assert stance() == "default"


def test_torch_compile_first_used_inside() -> None:
    code = """
import sys, torch, fastinit
with fastinit.fused():
    assert "torch._dynamo" not in sys.modules
    f = torch.compile(lambda x: x.normal_() * 0 + 2, backend="eager", fullgraph=True)
    assert f(torch.empty(3)).tolist() == [2.0] * 3
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr


# --- the account ----------------------------------------------------------------------------------


def test_the_plan_tells_what_will_be_written(fill_sizes: list[int]) -> None:
    with fused(seed=6) as plan:
        m = model()
        m.register_buffer("table", torch.arange(3.0))
        m.register_parameter("lost", nn.Parameter(torch.empty(2)))
        m.register_parameter("again", m[0].weight)
        init.trunc_normal_(m[0].weight, std=0.5)
        plan.add_root(m)
        before = plan.manifest()
        assert not fill_sizes
    after = plan.manifest()
    assert after == before
    status = {tensor.name: tensor.status for tensor in after.tensors}
    assert (status["table"], status["lost"], status["1.weight"]) == (
        "computed",
        "unwritten",
        "filled",
    )
    weight = after.named("0.weight")
    assert weight == after.named("again")
    assert weight.writes == 2
    assert weight.fills[0].rule == "trunc_normal"
    assert weight.fills[0].stream == weight.name == "again"
    text = plan.to_json()
    assert json.loads(text)["stream_version"] == 1
    console = Console(width=200, record=True, file=StringIO())
    console.print(plan.table())
    printed = console.export_text()
    for word in ("trunc_normal(mean=0, std=0.5, a=-2, b=2)", "written 2 times", "unwritten"):
        assert word in printed


def test_the_account_inside_is_that_after() -> None:
    with fused(seed=1) as plan:
        a = torch.empty(4, 4).normal_()
        a[0].uniform_()
        b = torch.empty(5).normal_()
        before = plan.manifest()
    assert plan.manifest() == before
    assert a.isfinite().all()
    assert b.isfinite().all()


def test_what_code_changes_is_computed() -> None:
    with fused() as plan:
        m = model()
        plan.add_root(m)
        with torch.no_grad():
            m[0].weight.cumsum_(0)
            m[1].weight.copy_(torch.zeros(5, 3))
            m[2].bias.numpy()[:] = 1
            init.ones_(m[2].weight)
    status = {tensor.name: tensor.status for tensor in plan.manifest().tensors}
    assert status == {
        "0.weight": "computed",
        "0.bias": "filled",
        "1.weight": "computed",
        "2.weight": "filled",
        "2.bias": "computed",
    }
