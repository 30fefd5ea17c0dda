"""The records that wait: `parts.Pending` implemented in Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from torch import Tensor

from fastinit.plan.parts import Wave
from fastinit.plan.records import Cast, Record
from fastinit.tensors.storage import covers, storage_key


class PendingRecords:
    """A list of records for each storage; `parts.Pending` documents the methods."""

    def __init__(self) -> None:
        self._records: dict[int, list[Record]] = {}
        self._casts: defaultdict[int, list[int]] = defaultdict(list)  # by source: cast targets

    @property
    def has_casts(self) -> bool:
        return bool(self._casts)

    def __bool__(self) -> bool:
        return bool(self._records)

    def __contains__(self, storage: int) -> bool:
        return storage in self._records

    def storages(self) -> list[int]:
        return list(self._records)

    def of(self, storage: int) -> Sequence[Record]:
        return self._records.get(storage, ())

    def add(self, storage: int, record: Record) -> None:
        earlier = self._records.get(storage)
        if earlier:
            earlier[:] = [other for other in earlier if not covers(record.tensor, other.tensor)]
            earlier.append(record)
        else:
            self._records[storage] = [record]
        if type(record) is Cast:
            self._casts[storage_key(record.source)].append(storage)

    def void(self, storage: int, tensor: Tensor) -> None:
        earlier = self._records.get(storage)
        if earlier:
            earlier[:] = [other for other in earlier if not covers(tensor, other.tensor)]

    def put(self, storage: int, records: Iterable[Record]) -> None:
        self._records[storage] = list(records)

    def pop(self, storage: int) -> list[Record]:
        return self._records.pop(storage, [])

    def take(self, storages: Iterable[int]) -> list[Wave]:
        waves: list[Wave] = []
        for storage in storages:
            # Records of one storage may overlap in part, so they keep their order.
            for depth, record in enumerate(self._records.pop(storage, ())):
                if depth == len(waves):
                    waves.append([])
                waves[depth].append((storage, record))
        return waves

    def cast_to(self, storage: int) -> Cast | None:
        records = self._records.get(storage)
        return records[0] if records and type(records[0]) is Cast else None

    def awaiting(self, storage: int) -> list[int]:
        return [
            other
            for other in self._casts.get(storage, ())
            if (cast := self.cast_to(other)) and storage_key(cast.source) == storage
        ]

    def pop_casts_from(self, storage: int) -> list[Cast]:
        found = []
        for other in self.awaiting(storage):
            found.append(self._records[other].pop(0))
            if not self._records[other]:
                del self._records[other]
        return found  # type: ignore[return-value]

    def clear(self) -> None:
        self._records.clear()
