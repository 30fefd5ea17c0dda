"""The interfaces between a plan and those of its parts that can be exchanged.

A plan decides; what waits is kept by a `Pending`, and carried out by an `Executor`. Neither knows
of names, modules or function modes, so that one can be native code, and the other write nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from fastinit.kernels.table import Row
from fastinit.plan.records import Cast, Fill, Record

Wave = list[tuple[int, Record]]
"""Records with their storages, of which no two are for the same memory."""


class Pending(Protocol):
    """The records that wait, by the storage that they write (`tensors.storage.storage_key`)."""

    @property
    def has_casts(self) -> bool:
        """Whether any memory waits for a cast, or did: without one, nothing awaits anything."""

    def __bool__(self) -> bool:
        """Whether anything waits."""

    def __contains__(self, storage: int) -> bool:
        """Whether anything waits for this memory."""

    def storages(self) -> list[int]:
        """All memory that something waits for, in the order of the first records."""

    def of(self, storage: int) -> Sequence[Record]:
        """What waits for this memory, in order."""

    def add(self, storage: int, record: Record) -> None:
        """Let a record wait, and forget those that it covers: the last write wins."""

    def void(self, storage: int, tensor: Tensor) -> None:
        """Forget what writing all of `tensor` would overwrite."""

    def put(self, storage: int, records: Iterable[Record]) -> None:
        """Let these records wait for the memory, and no others."""

    def pop(self, storage: int) -> list[Record]:
        """Forget what waits for the memory, and return it."""

    def take(self, storages: Iterable[int]) -> list[Wave]:
        """Forget what waits for several, and return it in waves, in their order."""

    def cast_to(self, storage: int) -> Cast | None:
        """The cast that comes first in this memory, if one does."""

    def awaiting(self, storage: int) -> list[int]:
        """Other memory that is to get, by a cast, the values that this has or waits for."""

    def pop_casts_from(self, storage: int) -> list[Cast]:
        """Forget the casts from this memory, and return them."""

    def clear(self) -> None:
        """Forget everything."""


class Executor(Protocol):
    """What carries records out."""

    def serves(self, tensor: Tensor) -> bool:
        """Whether fills of the tensor may wait for this executor; others are torch's."""

    def value_of(self, tensor: Tensor, kind: int, parameters: Sequence[float]) -> Tensor | None:
        """What a fill that is not served would leave, where torch need not carry it out."""

    def fill(self, drawn: Sequence[tuple[Fill, Sequence[Row]]]) -> None:
        """Carry out fills, whose rows write disjoint memory, in one call for each place."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Write all of a tensor by another."""
