"""The ways to join this thread's plan, or to open one for an `init_weights`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn

from fastinit.capture.mode import capturing
from fastinit.kernels.native import is_native
from fastinit.plan.current import current
from fastinit.plan.plan import Plan
from fastinit.plan.provenance import Initialization
from fastinit.tensors.walk import Modules


def opened(root: nn.Module, modules: Modules | None = None) -> AbstractContextManager[Plan]:
    """Join this thread's plan, or open one that is executed when the block ends.

    An exception that leaves the block in which the plan was opened drops what is pending. `modules`
    is the root's walk, if the caller has it.
    """
    plan = current()
    if plan is None:
        return _opened(root, modules)
    plan.add_root(root, modules)
    return nullcontext(plan)


@contextmanager
def _opened(root: nn.Module, modules: Modules | None) -> Iterator[Plan]:
    plan = Plan(deferring=is_native())
    plan.add_root(root, modules)
    try:
        with capturing(plan):
            yield plan
        plan.finish(is_end=True)
    except BaseException:
        plan.abandon()
        raise
    finally:
        plan.close()


@contextmanager
def initializing(root: nn.Module, modules: Modules) -> Iterator[Initialization]:
    """`opened`, recording the provenance of a top-level `init_weights` of `root`."""
    with opened(root, modules) as plan:
        initialization = Initialization(root, modules, plan.scope.writes)
        plan.scope.running.append(initialization)
        try:
            yield initialization
        finally:
            plan.scope.running.remove(initialization)


def planned(module: Any) -> AbstractContextManager[Any]:
    """`opened` for a module; an empty context for anything else, which has no parameter names."""
    return opened(module) if isinstance(module, nn.Module) else nullcontext()
