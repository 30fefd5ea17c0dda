"""The plan that defers everything, and keeps account of it."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import zip_longest
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from fastinit.capture.mode import Capture
from fastinit.kernels import fills
from fastinit.kernels.backends import is_native
from fastinit.kernels.fills import Fill, Record
from fastinit.manifest.manifest import Manifest, Written
from fastinit.plan import plan as plans
from fastinit.plan import seeds
from fastinit.plan.casts import CastingPlan, is_carriable
from fastinit.plan.ledger import Geometry, Ledger, geometry
from fastinit.plan.plan import covers_storage
from fastinit.tensors import boxes
from fastinit.tensors.names import Held, hold, storage_key

if TYPE_CHECKING:
    from rich.table import Table

# Modules whose functions only pass a fill on.
_PASSING = ("fastinit.", "torch.nn.init", "torch.overrides", "torch.utils")


class FusedPlan(CastingPlan):
    """What `fused` yields."""

    everything = True

    def __init__(self, deferring: bool, seed: int | None = None) -> None:
        super().__init__(deferring, seed)
        self._unwritten: dict[int, Held] = {}
        self._computed: dict[int, Held] = {}  # what code wrote otherwise than by fills
        self._writes: defaultdict[int, Counter[Geometry]] = defaultdict(Counter)
        self._known: dict[int, Held] = {}  # so that the keys of `_writes` stay unique

    def table(self) -> Table:
        """`manifest`, for people: `rich.print` it."""
        return self.manifest().table()

    def to_json(self) -> str:
        """`manifest` as JSON, for `regenerate` and `verify`."""
        return self.manifest().to_json()

    def manifest(self) -> Manifest:
        """What was written and, as things stand, will be, in the tensors that the roots hold and in
        those without a name."""
        with torch._C.DisableTorchFunction():
            ledger = self._previewed()
        computed = self._computed.keys() | {
            storage
            for storage, pending in self._pending.items()
            if any(type(fill) is not Fill for fill in pending)
        }
        tensors: dict[Geometry, Written] = {}

        def add(key: Geometry, name: str, dtype: torch.dtype) -> None:
            storage, *place = key
            status = "unwritten" if self._lacks_writes(key) else None
            drawn = () if storage in computed else ledger.drawn.get(name, ())
            writes = self._writes[storage][tuple(place)]
            tensors[key] = Written.of(name, key[2], dtype, status, drawn, writes)

        for storage, named in ledger.named.items():
            for name, tensor in named:
                with torch._C.DisableTorchFunction():
                    if storage_key(tensor) != storage:  # other memory since: not the plan's to tell
                        key = geometry(storage_key(tensor), tensor)
                        tensors[key] = Written.of(
                            name, tensor.shape, tensor.dtype, "computed", (), 0
                        )
                        continue
                    key = geometry(storage, tensor)
                if key in tensors:
                    first = tensors[key]
                    tensors[key] = replace(first, aliases=(*first.aliases, name))
                else:
                    add(key, name, tensor.dtype)
        for key, (name, dtype, _) in ledger.unnamed.items():
            if key not in tensors:
                add(key, name, dtype)
        return Manifest(tuple(tensors.values()), tuple(self.unmatched))

    def _previewed(self) -> Ledger:
        """The ledger, as it will be when all is executed."""
        for storage in list(self._pending):
            self._settle(storage)
        ledger = self._ledger.copy()
        wanted = {
            s: pending for s, pending in self._pending.items() if not self._is_lost(s, pending)
        }
        for wave in zip_longest(*wanted.values()):  # in the order of `flush`
            for storage, fill in zip(wanted, wave, strict=True):
                if type(fill) is Fill:
                    ledger.draw(storage, fill, self.seed_of(fill))
        return ledger

    def order_dependent(self) -> list[str]:
        """Streams by number rather than by name that something random was, or will be, drawn
        from."""
        with torch._C.DisableTorchFunction():
            ledger = self._previewed()
        return [
            label
            for label, _, _ in ledger.unnamed.values()
            if any(drawn.rule != "constant" for drawn in ledger.drawn.get(label, ()))
        ]

    def without_fan_groups(self) -> list[str]:
        """Names that groups were declared for, but not known by when the tensor was drawn."""
        return self._ledger.without_groups()

    def is_unwritten(self, tensor: Tensor) -> bool:
        """Whether nobody has written the tensor's memory, or all of it, since it was allocated."""
        return self._lacks_writes(geometry(storage_key(tensor), tensor))

    def _lacks_writes(self, key: Geometry) -> bool:
        storage, start, shape, strides = key
        if storage not in self._unwritten:
            return False
        stop = start + boxes.span(shape, strides)
        most = 0  # elements that were written, if no two writes met
        for first, size, steps in self._writes.get(storage, ()):
            last = first + boxes.span(size, steps)
            most += min(math.prod(size), max(0, min(last, stop) - max(first, start)))
        return most < math.prod(shape)

    def record(self, fill: Record) -> None:
        # An alias, because the object may get other memory unseen (`Tensor.set_`); and autograd
        # learns of the write now, as it would eagerly.
        fills.mark_written(fill.tensor)
        fill = fill._replace(tensor=fill.tensor.detach())
        storage = storage_key(fill.tensor)
        if storage not in self._known:
            self._known[storage] = hold(fill.tensor)
        self._writes[storage][geometry(storage, fill.tensor)[1:]] += 1
        if covers_storage(fill.tensor):
            self._computed.pop(storage, None)
        super().record(fill)
        if not fill.tensor.untyped_storage().resizable():  # not torch's own: NumPy's, say
            self.flush([storage])

    def computed(self, tensor: Tensor) -> None:
        self._unwritten.pop(storage_key(tensor), None)
        self._computed[storage_key(tensor)] = hold(tensor)
        super().computed(tensor)

    def escape(self, tensor: Tensor) -> None:
        super().escape(tensor)
        self.computed(tensor)

    def allocated(self, tensor: Tensor) -> None:
        if tensor.numel() > 0:
            self._unwritten[storage_key(tensor)] = hold(tensor)

    def origin(self) -> str:
        if self.rule:
            return self.rule
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if not module.startswith(_PASSING):
                return f"{module}.{frame.f_code.co_name}, line {frame.f_lineno}"
            frame = frame.f_back
        return ""

    def replaced(self, tensor: Tensor) -> None:
        super().replaced(tensor)
        if tensor.layout is torch.strided and not is_lazy(tensor):
            self._ledger.follow(tensor)

    def carried(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        new = super().carried(tensor, device, dtype)
        if new is None and self._is_bare(tensor):  # then there are no values to compute
            new = torch.empty_like(tensor, device=device, dtype=dtype)
            self.allocated(new)
        return new

    def _is_bare(self, tensor: Tensor) -> bool:
        if not is_carriable(tensor):
            return False
        storage = storage_key(tensor)
        return storage in self._unwritten and not self._writes.get(storage)

    def took_over(self, storage: int, source: int) -> None:
        self._writes[storage] += self._writes.pop(source, Counter())

    def finish(self) -> None:
        """Execute everything pending, but for memory that nobody has any more."""
        self.flush([s for s, pending in self._pending.items() if not self._is_lost(s, pending)])
        self._pending.clear()

    def drop(self, storages: Iterable[int]) -> None:
        """Only keep account of what is pending for this memory, unless other memory waits for that:
        nobody wants its values here."""
        for storage in storages:
            if not self._waiting_for(storage):
                for fill in self._pending.pop(storage, ()):
                    if type(fill) is Fill:
                        self._ledger.draw(storage, fill, self.seed_of(fill))

    def moved(self, tensor: Tensor, device: torch.device) -> torch.UntypedStorage:
        """Other memory, on a device, in place of the tensor's.

        Its values come along, or, if all of them wait for fills, these alone.
        """
        old = storage_key(tensor)
        storage = tensor.untyped_storage()
        self._settle(old)
        pending = self._pending.get(old, [])
        fills_only = [fill for fill in pending if type(fill) is Fill]
        is_whole = any(covers_storage(fill.tensor) for fill in fills_only)
        if is_whole and len(fills_only) == len(pending) and not self._waiting_for(old):
            flat = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device)
            storage = flat.untyped_storage()
            del self._pending[old]
            self._pending[storage._cdata] = [
                fills.onto(fill, storage, fill.tensor.dtype) for fill in fills_only
            ]
        else:
            self.flush([old])
            flat = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
            flat = flat.to(device)
            storage = flat.untyped_storage()
        for group in (self._computed, self._unwritten):
            if old in group:
                group[storage._cdata] = hold(flat)
        self._writes[storage._cdata] = self._writes.pop(old, Counter())
        self._ledger.moved(old, storage)
        return storage


@contextmanager
def fused(seed: int | None = None) -> Iterator[Any]:
    """Record every fill inside the block, and execute them together at its end.

    Random and constant fills of tensors wait: `torch.nn.init`'s functions, however they were
    imported, `Tensor.normal_`, `uniform_`, `fill_`, `zero_`, and fastinit's. Of fills of the same
    memory the last one counts. Moves and casts (`.to`, `.half()`) of a tensor that is then given up
    take its fills along. Whatever else happens to a tensor, what it waits for is executed
    first, so that code computes what it would have computed. An exception that leaves the block
    does not stop what is pending: every tensor is as the code left it.

    Tensors draw from streams by the names that they have in a module whose `init_weights` is called
    inside, or which `build` returns; others by their number, in the order of execution.

    The block belongs to this thread. Inside another one, or inside an `init_weights`, it joins the
    plan that is there.

    Args:
        seed: 64-bit key of all fills, for the same values each time. PyTorch's own generators are
            seeded from it meanwhile, and restored. By default drawn from PyTorch's default
            generator.

    Yields:
        The plan, a `FusedPlan`: `plan.table()` and `plan.to_json()` tell what is written by which
        rule. (The plan of an `init_weights` keeps no account of that.)

    Raises:
        TypeError: a seed that is no integer.
        ValueError: a seed outside [0, 2^64), or another than that of the plan around it.

    Examples:
        >>> with fastinit.fused(seed=0) as plan:
        ...     model = Transformer(config)
        >>> rich.print(plan.table())
    """
    seed = seeds.checked(seed)
    outer = plans.current()
    if outer is not None:
        if seed is not None and seed != outer.explicit_seed:
            raise ValueError(
                f"seed={seed} inside a plan "
                + (
                    f"whose seed is {outer.explicit_seed}"
                    if outer.explicit_seed is not None
                    else "whose seed was drawn"
                )
                + "; give it to the outermost plan only"
            )
        yield outer
        return
    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(seeds.governing_torch(seed))
        plan = FusedPlan(is_native(), seed)
        stack.enter_context(plans.active(plan))
        try:
            with Capture(plan):
                yield plan
        finally:
            plan.finish()
