"""The plan that is open in this thread, and in this context: asyncio tasks have their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn

from fastinit.kernels.native import _C
from fastinit.plan.plan import Copies, Plan
from fastinit.plan.provenance import Initialization

_open: ContextVar[Plan | None] = ContextVar("fastinit_plan", default=None)


def current() -> Plan | None:
    """Return the plan that is open in this thread and context (an asyncio task is one), or None."""
    plan = _open.get()
    return plan if plan is not None and plan.is_here else None


def enter(plan: Plan) -> None:
    """Make the plan this context's."""
    _open.set(plan)
    if _C is not None:
        _C.open_recorder.set(False if plan.recorder is None else plan.recorder)


def leave(plan: Plan) -> None:
    """Undo `enter`, if it has happened."""
    if _open.get() is plan:
        if _C is not None:
            _C.open_recorder.set(None)
        _open.set(None)


@contextmanager
def suspended() -> Iterator[None]:
    """Let no plan be open in the block."""
    plan = _open.get()
    _open.set(None)
    if _C is not None:
        _C.open_recorder.set(None)
    try:
        yield
    finally:
        if plan is not None:
            enter(plan)


def is_joined(module: nn.Module) -> bool:
    """Whether the open plan has `module` in one of its roots."""
    plan = current()
    return plan is not None and module in plan.scope


def initialization_of(module: nn.Module) -> Initialization | None:
    """Return the innermost running initialization that covers `module`, or None."""
    plan = current()
    return None if plan is None else plan.scope.covering(module)


@contextmanager
def as_origin(text: Callable[[], str]) -> Iterator[None]:
    """Name the origin of the fills in the block, if the plan keeps an account."""
    plan = current()
    recorder = None if plan is None or plan.account is None else plan.recorder
    if recorder is None:
        yield
        return
    before, recorder.origin = recorder.origin, text()
    try:
        yield
    finally:
        recorder.origin = before


@contextmanager
def deferred_copies() -> Iterator[None]:
    """Let `copy_` in the block wait as fills do, in the plan of an `init_weights`, so that an error
    drops it.

    The sources are kept until the plan is executed, and nothing else may change them: a plan that
    code opens for longer (one with an account) may live until the file that they are in is written.
    """
    plan = current()
    waits = plan is not None and plan.deferring and plan.account is None
    if plan is None or not waits or plan.copies is not Copies.EXECUTED:
        yield
        return
    plan.copies = Copies.KEPT
    try:
        yield
    finally:
        plan.copies = Copies.EXECUTED
