"""The interfaces of a plan's exchangeable parts.

A plan decides; a `Pending` keeps the records that wait, an `Executor` carries them out. Neither
knows of names, modules or function modes, so the first can be native code, the second a dry run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from fastinit.kernels.table import Row
from fastinit.plan.records import Cast, Fill, Record

Wave = list[tuple[int, Record]]
"""Records with their storages, no two for the same storage."""


class Pending(Protocol):
    """The records that wait, by the key of the storage that they write (`tensors.storage`)."""

    @property
    def has_casts(self) -> bool:
        """Whether a cast waits or has waited; if not, `awaiting` is empty for every storage."""

    def __bool__(self) -> bool:
        """Whether anything waits."""

    def __contains__(self, storage: int) -> bool:
        """Whether anything waits for this storage."""

    def storages(self) -> list[int]:
        """Return all storages with waiting records, in the order of their first records."""

    def of(self, storage: int) -> Sequence[Record]:
        """Return the records that wait for this storage, in order."""

    def add(self, storage: int, record: Record) -> None:
        """Let a record wait, and drop those that it covers: the last write wins."""

    def void(self, storage: int, tensor: Tensor) -> None:
        """Drop the records that a write of all of `tensor` would overwrite."""

    def put(self, storage: int, records: Iterable[Record]) -> None:
        """Let these records wait for the storage, and no others."""

    def pop(self, storage: int) -> list[Record]:
        """Remove and return the records that wait for the storage."""

    def take(self, storages: Iterable[int]) -> list[Wave]:
        """Remove the records that wait for several storages, and return them in waves, in order."""

    def cast_to(self, storage: int) -> Cast | None:
        """Return the first record that waits for this storage, if it is a cast; else None."""

    def awaiting(self, storage: int) -> list[int]:
        """Return the storages with a waiting cast from this storage."""

    def pop_casts_from(self, storage: int) -> list[Cast]:
        """Remove and return the waiting casts from this storage."""

    def clear(self) -> None:
        """Drop all records."""


class Executor(Protocol):
    """The part that carries records out."""

    def serves(self, tensor: Tensor) -> bool:
        """Whether fills of the tensor may wait for this executor; others fall back to torch."""

    def value_of(self, tensor: Tensor, kind: int, parameters: Sequence[float]) -> Tensor | None:
        """Return the value of a fill that is not served; None if torch has to carry it out."""

    def fill(self, drawn: Sequence[tuple[Fill, Sequence[Row]]]) -> None:
        """Carry out fills with disjoint rows, in one call for each place."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Write all of `target` with the values of `source`."""
