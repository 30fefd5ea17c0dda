"""Casts that wait: memory that takes the place of other memory takes over its fills."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from fastinit.kernels.distributions import can_round
from fastinit.plan.records import Cast, Fill, Record, onto
from fastinit.tensors.storage import covers_storage, storage_key

if TYPE_CHECKING:
    from fastinit._C import Recorder


def adopt_fills(recorder: Recorder, storage: int) -> Cast | None:
    """If a cast waits whose source no code holds any more, replace it by the source's fills.

    Returns:
        The cast that waits still; None if there is none.
    """
    cast: Cast | None = recorder.cast_to(storage)
    if cast is None:
        return None
    source = storage_key(cast.source)
    adopt_fills(recorder, source)
    if not _takes_place(recorder, storage, source):
        return cast
    fills = recorder.of(source)
    if (
        fills
        and all(type(fill) is Fill and not fill.tail for fill in fills)
        and covers_storage(fills[0].tensor)
        and can_round(cast.source.dtype, cast.tensor.dtype)
        and (
            cast.tensor.stride() == cast.source.stride()
            or all(fill.tensor.shape == cast.tensor.shape for fill in fills)
        )
    ):
        recorder.pop(source)
        recorder.put(storage, [*_moved(cast, fills), *recorder.of(storage)[1:]])
        return None
    return cast


def name_source(recorder: Recorder, cast: Cast) -> list[int]:
    """Let the source of a cast, if no code holds it any more, draw under the names of the first of
    what is cast from it; return it."""
    source = storage_key(cast.source)
    if not recorder.is_orphan(source) or recorder.named(source):
        return []
    heir = _heir(recorder, source)
    if heir is None:
        return []
    recorder.lent(cast.source, heir)
    return [source]


def _heir(recorder: Recorder, source: int) -> Tensor | None:
    """Return the first tensor with a name of those that are cast from a storage."""
    for storage in recorder.awaiting(source):
        cast = recorder.cast_to(storage)
        if recorder.named(storage):
            return None if cast is None else cast.tensor
        if (found := _heir(recorder, storage)) is not None:
            return found
    return None


@contextmanager
def as_at_the_end(recorder: Recorder) -> Iterator[None]:
    """Within it, the sources of casts have the names that they will draw under."""
    named: list[int] = []

    def visit(storage: int) -> None:
        if cast := adopt_fills(recorder, storage):
            named.extend(name_source(recorder, cast))
            visit(storage_key(cast.source))

    for storage in recorder.storages():
        if not recorder.is_orphan(storage):  # which the end leaves out
            visit(storage)
    try:
        yield
    finally:
        for source in named:
            recorder.unname(source)


def _takes_place(recorder: Recorder, storage: int, source: int) -> bool:
    """Whether memory that is cast from other memory is all that code holds of it."""
    return recorder.awaiting(source) == [storage] and recorder.is_orphan(source)


def _moved(cast: Cast, fills: list[Record]) -> list[Fill]:
    memory, dtype = cast.tensor.untyped_storage(), cast.tensor.dtype
    moved = [onto(fill, memory, dtype) for fill in fills if type(fill) is Fill]
    if cast.tensor.stride() != cast.source.stride():  # another memory format
        moved = [fill._replace(tensor=cast.tensor) for fill in moved]
    return moved
