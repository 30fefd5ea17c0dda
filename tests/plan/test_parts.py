"""The interfaces between a plan and its parts: a plan with parts that are not ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastinit import init
from fastinit.kernels.distributions import CONSTANT
from fastinit.plan.account import Account
from fastinit.plan.carry import carried
from fastinit.plan.current import deferred_copies, enter, leave
from fastinit.plan.executor import KernelExecutor
from fastinit.plan.parts import Executor
from fastinit.plan.plan import Copies, Plan
from fastinit.plan.records import Copy, Fill
from fastinit.tensors.storage import storage_key


class FakeExecutor:
    """Writes down what it is asked for, and writes nothing else."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def serves(self, tensor: Tensor) -> bool:
        return tensor.dtype == torch.float32

    def launch(self, place: Any, rows: Sequence[Any]) -> None:
        self.log.append((place, rows))

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.log.append((target, source))


@contextmanager
def opened_only(plan: Plan) -> Iterator[None]:
    """Make the plan current, without its mode."""
    enter(plan)
    try:
        yield
    finally:
        leave(plan)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_what_is_ours_has_the_interface() -> None:
    """For the type checker; and that none of the methods is missing at run time."""
    executor: Executor = KernelExecutor()
    names = {name for name in vars(Executor) if not name.startswith("_")}
    assert names
    assert all(hasattr(executor, name) for name in names)


def test_what_an_executor_does_not_serve_is_torchs() -> None:
    m = model()
    plan = Plan(deferring=True, seed=0, account=Account(), executor=FakeExecutor())
    plan.add_root(m)
    with opened_only(plan):
        init.normal_(m[0].weight)
        assert plan.pending, "it is served, and waits"
        init.constant_(m[1].num_batches_tracked, 7)
    assert m[1].num_batches_tracked == 7


def test_a_plan_without_an_account_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"keeps no account.*fused\(\)"):
        Plan(deferring=True, seed=0).table()


# --- what waits -----------------------------------------------------------------------------------


def fill(tensor: Tensor) -> Fill:
    return Fill(tensor, CONSTANT, (1.0, 0.0, 0.0, 0.0), None, None)


def recorder() -> Any:
    pending = Plan(deferring=True, seed=0, account=Account()).recorder
    assert pending is not None
    return pending


def test_the_last_write_wins_and_parts_keep_their_turn() -> None:
    pending, x = recorder(), torch.empty(4, 4)
    key = storage_key(x)
    whole, row, again = fill(x), fill(x[1]), fill(x[1].view(4))
    for record in (fill(x), whole, row, again):
        pending.add(record)
    assert [r.tensor.shape for r in pending.of(key)] == [(4, 4), (4,)]
    assert pending.of(key)[1].tensor is again.tensor
    pending.clear()
    assert key not in pending
    assert not pending


def test_void_forgets_what_is_overwritten() -> None:
    pending, x = recorder(), torch.empty(4, 4)
    key = storage_key(x)
    pending.add(fill(x))
    pending.add(fill(x[1]))
    pending.void(x[1])
    assert len(pending.of(key)) == 1
    pending.void(x)
    assert pending.of(key) == []


def test_casts_wait_for_their_source() -> None:
    plan = Plan(deferring=True, seed=0, account=Account())
    x = torch.empty(8)
    with opened_only(plan):
        init.normal_(x)
        half = carried(plan, x, x.device, torch.float16)
    assert half is not None
    source, target = storage_key(x), storage_key(half)
    assert plan.pending.awaiting(source) == [target]
    assert plan.pending.awaiting(target) == []
    plan.flush([source])  # `x` is kept: it is filled, and then cast
    assert not plan.pending
    assert torch.equal(half, x.half())


def test_a_copy_that_waited_is_in_the_account() -> None:
    """A pretrained weight within `fused` was once told to be what had been drawn before."""
    plan, m = Plan(deferring=True, seed=0, account=Account()), nn.Linear(3, 3)
    plan.add_root(m)
    with opened_only(plan):
        init.normal_(m.weight)
        plan.flush([storage_key(m.weight)])
        plan.record(Copy(m.weight.detach(), torch.ones(3, 3)))
        plan.finish()
    assert (m.weight == 1.0).all()
    assert plan.manifest().named("weight").status == "computed"


@pytest.mark.parametrize("before", list(Copies))
def test_deferred_copies_leave_the_policy_as_it_was(before: Copies) -> None:
    """Pretrained weights in a dry run once had all later copies executed."""
    plan = Plan(deferring=True, seed=0)
    plan.copies = before
    with opened_only(plan):
        with deferred_copies():
            assert plan.copies is not Copies.EXECUTED
        assert plan.copies is before


def test_a_part_that_was_copied_is_not_the_whole() -> None:
    plan = Plan(deferring=True, seed=0, account=Account())
    assert plan.account is not None
    x = torch.empty(4)
    plan.pending.allocated(x)
    plan.record(Copy(x[:2], torch.ones(2)))
    plan.flush([storage_key(x)])
    assert plan.pending.is_unwritten(x)
    plan.record(Copy(x, torch.ones(4)))
    plan.flush([storage_key(x)])
    assert not plan.pending.is_unwritten(x)
