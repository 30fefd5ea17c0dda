"""Plans in which what moves or casts a tensor takes along what is pending for it.

`tensor.half()` gives memory that waits for a cast of the tensor's. If nobody has the tensor any
more when that is executed, as after `module.half()`, the new memory is filled in its place, with
values rounded as the cast would round them; otherwise the tensor is filled and cast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import Parameter, is_lazy

from fastinit.kernels import fills
from fastinit.kernels.fills import Cast, Copy, Fill, Record
from fastinit.plan.plan import Plan, covers_storage
from fastinit.tensors.names import storage_key


def _owners(storage: int) -> int:
    """How many tensors share a storage."""
    return int(torch._C._storage_Use_Count(storage)) - _KEPT


# Some versions of torch count the Python object of a storage, once there was one.
_probe = torch.empty(1)
_KEPT = 0
_KEPT = _owners(storage_key(_probe)) - 1


def is_carriable(tensor: Tensor) -> bool:
    """Whether a tensor is ordinary memory that would be moved and cast to such."""
    if is_lazy(tensor) or not (type(tensor) is Tensor or isinstance(tensor, Parameter)):
        return False
    return fills.serves(tensor, on_meta=True) and not torch.is_inference_mode_enabled()


class CastingPlan(Plan):
    """What `FusedPlan` is without its account."""

    def __init__(self, deferring: bool, seed: int | None = None) -> None:
        super().__init__(deferring, seed)
        self._casts: defaultdict[int, list[int]] = defaultdict(list)  # by source, what waits for it

    def record(self, fill: Record) -> None:
        storage = storage_key(fill.tensor)
        if self._waiting_for(storage):
            self.flush([storage])
        super().record(fill)

    def overwrite(self, tensor: Tensor) -> None:
        if self._waiting_for(storage_key(tensor)):
            self.flush([storage_key(tensor)])
        super().overwrite(tensor)

    def carried(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        if not (is_carriable(tensor) and self.serves(tensor)):
            return None
        if device.type == "meta":
            return torch.empty_like(tensor, device=device, dtype=dtype)
        storage = storage_key(tensor)
        pending = self._pending.get(storage)
        is_exact = fills.can_round(tensor.dtype, dtype)
        if not (pending and is_exact and self._is_whole(pending, tensor)):
            return None
        new = torch.empty_like(tensor, device=device, dtype=dtype)
        if not self.serves(new) or new.stride() != tensor.stride():
            return None
        self._pending[storage_key(new)] = [Cast(new.detach(), tensor.detach())]
        self._casts[storage].append(storage_key(new))
        return new

    def _is_whole(self, pending: list[Record], tensor: Tensor) -> bool:
        """Whether what is pending alone says what the tensor, all of its memory, will hold."""
        kinds = {type(record) for record in pending}
        return (
            Copy not in kinds
            and {record.tensor.dtype for record in pending} == {tensor.dtype}
            and covers_storage(pending[0].tensor)
            and covers_storage(tensor)
        )

    def _waiting_for(self, storage: int) -> list[int]:
        """Memory that is to get the values that this memory now has, or waits for."""
        return [
            other
            for other in self._casts.get(storage, ())
            if (cast := self._cast_to(other)) and storage_key(cast.source) == storage
        ]

    def _cast_to(self, storage: int) -> Cast | None:
        pending = self._pending.get(storage)
        return pending[0] if pending and type(pending[0]) is Cast else None

    def _settle(self, storage: int) -> None:
        """If memory waits for a cast whose source nobody has any more: let it wait for the fills of
        that in its place."""
        cast = self._cast_to(storage)
        if cast is None:
            return
        source = storage_key(cast.source)
        self._settle(source)
        fills_of_source = self._pending.get(source)
        if (
            fills_of_source
            and self._waiting_for(source) == [storage]
            and all(type(fill) is Fill for fill in fills_of_source)
            and covers_storage(fills_of_source[0].tensor)
            and self._is_lost(source, fills_of_source)
        ):
            del self._pending[source]
            memory, dtype = cast.tensor.untyped_storage(), cast.tensor.dtype
            moved = [fills.onto(fill, memory, dtype) for fill in fills_of_source]  # type: ignore[arg-type]
            self._pending[storage][:1] = moved
            self.took_over(storage, source)

    def took_over(self, storage: int, source: int) -> None:
        """The fills of `source` are now those of `storage`."""

    def flush(self, storages: Iterable[int]) -> None:
        storages = list(storages)
        errors: list[ValueError] = []
        for storage in storages:
            self._settle(storage)
            if cast := self._cast_to(storage):
                try:
                    self.flush([storage_key(cast.source)])
                except ValueError as error:  # of fan groups: when all others are filled
                    errors.append(error)
        try:
            super().flush(storages)
        except ValueError as error:
            errors.append(error)
        for storage in storages:
            for waiting in self._waiting_for(storage):
                target, source = self._pending[waiting].pop(0)  # type: ignore[misc]
                if not self._pending[waiting]:
                    del self._pending[waiting]
                with torch.no_grad(), torch._C.DisableTorchFunction():
                    target.copy_(source)
                self.computed(target)
        if errors:
            raise errors[0]

    def _is_lost(self, storage: int, pending: list[Record]) -> bool:
        """Whether only the records still hold the memory, as after tying an embedding's twin."""
        if storage in self._ledger.named:
            return False
        return _owners(storage) <= len(pending) + len(self._waiting_for(storage))
