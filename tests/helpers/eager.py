"""Plans that execute every record as it comes, and draws that eager torch could make: oracles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from fastinit import _C
from fastinit.kernels.distributions import CONSTANT, valid_parameters
from fastinit.plan import write as writing
from fastinit.plan.plan import Plan


class Eager(Plan):
    """A plan that executes every record as it comes, also those of which the recorder would not
    tell Python."""

    def record(self, record: Any) -> None:
        super().record(record)
        self.flush(self.pending.storages())


@contextmanager
def recording_in(kind: type[Plan]) -> Iterator[None]:
    """For plans of this class: let each fill be a call of `Plan.record` if it is `Eager`."""
    _C.enable(kind is not Eager)
    try:
        yield
    finally:
        _C.enable(True)


@contextmanager
def constant_draws() -> Iterator[None]:
    """Let each random fill be a constant that its arguments decide.

    Streams count executed draws, so that values depend on what was read in between; these do not.
    """
    write = writing.write

    def constant(
        tensor: Any, kind: int, parameters: tuple[Any, ...], generator: Any = None, rule: Any = None
    ) -> bool:
        numbers = all(isinstance(p, (int, float)) for p in parameters)
        if kind == CONSTANT or not numbers or not tensor.is_floating_point():
            return write(tensor, kind, parameters, generator, rule)
        if valid_parameters(tensor.dtype, kind, parameters) is None:
            return write(tensor, kind, parameters, generator, rule)
        value = hash((kind, tuple(map(float, parameters[:2])))) % 2000 / 8 - 125
        return write(tensor, CONSTANT, (value,))

    with ExitStack() as stack:
        for user in ("init", "capture.mode", "capture.patches", "plan.orthogonal"):
            stack.enter_context(mock.patch(f"fastinit.{user}.write", constant))
        yield
