"""The plan that is open in this thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from fastinit.kernels.native import _C
from fastinit.plan.plan import Copies, Plan
from fastinit.plan.provenance import Initialization


class _Thread(threading.local):
    plan: Plan | None = None


_thread = _Thread()


def current() -> Plan | None:
    """Return the plan open in this thread, or None."""
    return _thread.plan


@contextmanager
def active(plan: Plan) -> Iterator[None]:
    """Make the plan this thread's for the block."""
    _set(plan)
    try:
        yield
    finally:
        _set(None)


def _set(plan: Plan | None) -> None:
    _thread.plan = plan
    if _C is not None:
        is_deferring = plan is not None and plan.recorder is not None
        _C.set_current(plan.recorder if is_deferring else None if plan is None else False)  # type: ignore[union-attr]


def is_joined(module: nn.Module) -> bool:
    """Whether this thread's plan has `module` in one of its roots."""
    plan = _thread.plan
    return plan is not None and module in plan.scope


def initialization_of(module: nn.Module) -> Initialization | None:
    """Return the innermost running initialization that covers `module`, or None."""
    plan = _thread.plan
    return None if plan is None else plan.scope.covering(module)


@contextmanager
def as_origin(text: Callable[[], str]) -> Iterator[None]:
    """Name the origin of the fills in the block, if the plan keeps an account."""
    plan = _thread.plan
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
    """Let `copy_` in the block wait as fills do, in a plan that defers, so that an error drops it.

    The sources are kept until the plan is executed, and nothing else may change them.
    """
    plan = _thread.plan
    if plan is None or not plan.deferring or plan.copies is not Copies.EXECUTED:
        yield
        return
    plan.copies = Copies.KEPT
    try:
        yield
    finally:
        plan.copies = Copies.EXECUTED
