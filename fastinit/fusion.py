"""The plan that defers everything, and keeps account of it."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastinit import fills
from fastinit import plan as plans
from fastinit.backends import is_native
from fastinit.capture import Capture
from fastinit.cuda import place_of
from fastinit.fills import Copy, Fill
from fastinit.ledger import Geometry, Ledger, geometry
from fastinit.manifest import Manifest, Written
from fastinit.names import Held, hold, storage_key
from fastinit.plan import Plan, covers_storage, over

if TYPE_CHECKING:
    from rich.table import Table

# Modules whose functions only pass a fill on.
_PASSING = ("fastinit.", "torch.nn.init", "torch.overrides", "torch.utils")


def _owners(storage: int) -> int:
    """How many tensors share a storage."""
    return int(torch._C._storage_Use_Count(storage)) - _KEPT


# Some versions of torch count the Python object of a storage, once there was one.
_probe = torch.empty(1)
_KEPT = 0
_KEPT = _owners(storage_key(_probe)) - 1


class FusedPlan(Plan):
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
            if any(type(fill) is Copy for fill in pending)
        }
        tensors: dict[Geometry, Written] = {}

        def add(key: Geometry, name: str, dtype: torch.dtype) -> None:
            storage, *place = key
            status = "unwritten" if storage in self._unwritten else None
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
        ledger = self._ledger.copy()
        for storage, pending in self._pending.items():
            for fill in pending:
                if type(fill) is Fill and not self._is_lost(storage, pending):
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

    def is_unwritten(self, tensor: Tensor) -> bool:
        """Whether nobody has written the tensor's memory since it was allocated."""
        return storage_key(tensor) in self._unwritten

    def record(self, fill: Fill | Copy) -> None:
        # An alias, because the object may get other memory unseen (`Tensor.set_`); and autograd
        # learns of the write now, as it would eagerly.
        fills.mark_written(fill.tensor)
        fill = fill._replace(tensor=fill.tensor.detach())
        storage = storage_key(fill.tensor)
        self._known.setdefault(storage, hold(fill.tensor))
        self._writes[storage][geometry(storage, fill.tensor)[1:]] += 1
        if covers_storage(fill.tensor):
            self._computed.pop(storage, None)
        super().record(fill)
        if not fill.tensor.untyped_storage().resizable():  # not torch's own: NumPy's, say
            self.flush([storage])

    def wrote(self, storage: int) -> None:
        self._unwritten.pop(storage, None)
        super().wrote(storage)

    def computed(self, tensor: Tensor) -> None:
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

    def finish(self) -> None:
        """Execute everything pending, but for memory that nobody has any more."""
        self.flush([s for s, pending in self._pending.items() if not self._is_lost(s, pending)])
        self._pending.clear()

    def _is_lost(self, storage: int, pending: list[Fill | Copy]) -> bool:
        """Whether only the records still hold the memory, as after tying an embedding's twin."""
        if storage in self._ledger.named:
            return False
        return _owners(storage) <= len(pending)

    def drop(self, storages: Iterable[int]) -> None:
        """Forget what is pending for this memory: nobody wants its values here."""
        for storage in storages:
            self._pending.pop(storage, None)

    def moved(self, tensor: Tensor, device: torch.device) -> torch.UntypedStorage:
        """Other memory, on a device, in place of the tensor's.

        Its values come along, or, if all of them wait for fills, these alone.
        """
        old = storage_key(tensor)
        storage = tensor.untyped_storage()
        pending = self._pending.get(old, [])
        if any(type(fill) is Fill and covers_storage(fill.tensor) for fill in pending):
            flat = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device)
            storage = flat.untyped_storage()
            self._pending[storage._cdata] = [
                fill._replace(tensor=(t := over(storage, fill.tensor)), place=place_of(t))
                for fill in self._pending.pop(old)
                if type(fill) is Fill
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
    memory the last one counts. Whatever else happens to a tensor, what it waits for is executed
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
        ValueError: a seed outside [0, 2^64), or another than that of the plan around it.

    Examples:
        >>> with fastinit.fused(seed=0) as plan:
        ...     model = Transformer(config)
        >>> rich.print(plan.table())
    """
    if seed is not None and not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
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
            stack.enter_context(_seeded(seed))
        plan = FusedPlan(is_native(), seed)
        stack.enter_context(plans.active(plan))
        try:
            with Capture(plan):
                yield plan
        finally:
            plan.finish()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's own generators, seeded for the block."""
    is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if is_used else ()
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed - (1 << 64) if seed >= 1 << 63 else seed)
        yield
