"""Casts that wait: memory that takes the place of other memory takes over its fills."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    what is cast from it, and likewise those in between; return what has got names."""
    source = storage_key(cast.source)
    casts = _casts_from(recorder, source)
    got: list[int] = []
    for each in casts:
        if below := _casts_from(recorder, storage_key(each.tensor)):
            got += name_source(recorder, below[0])
    named = [each for each in casts if recorder.named(storage_key(each.tensor))]
    if named and recorder.is_orphan(source) and not recorder.named(source):
        recorder.lent(cast.source, named[0].tensor)
        got.append(source)
    return got


def _casts_from(recorder: Recorder, storage: int) -> list[Cast]:
    found = map(recorder.cast_to, recorder.awaiting(storage))
    return [cast for cast in found if cast is not None]


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
