"""The plan: fills recorded, last write wins, executed together.

A plan belongs to one thread. Under the native backend it defers: writes are records until
something reads the memory (see `capture`) or the outermost `opened` block ends. Under the torch
backend nothing is deferred and the plan only keeps provenance.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from fastinit import fills
from fastinit.backend import is_native
from fastinit.fills import Box, Fill, Parameters, Whole
from fastinit.names import named_tensors, storage_key, stream_of, walk
from fastinit.provenance import Initialization


class _Thread(threading.local):
    plan: Plan | None = None

    def __init__(self) -> None:
        self.words = torch.empty(2, dtype=torch.int64)


_thread = _Thread()
_SINGLE = stream_of("#0")  # a tensor filled on its own has no name


def current() -> Plan | None:
    """The plan open in this thread."""
    return _thread.plan


def draw_seed(generator: torch.Generator | None = None) -> int:
    """A 64-bit seed: two 32-bit draws, low word first, from `generator` or torch's default one."""
    if generator is None or generator.device.type == "cpu":
        words = _thread.words.random_(0, 1 << 32, generator=generator)
    else:
        words = torch.randint(1 << 32, (2,), generator=generator, device=generator.device)
    low, high = words.tolist()
    return int(low | high << 32)


class Plan:
    """What is written by which rule, until it is executed.

    Attributes:
        seed: the 64-bit Philox key of every fill that brings no generator of its own.
        deferring: whether writes are recorded; otherwise they have happened already.
        initializations: provenance of the `init_weights` running in this plan, outermost first.
    """

    def __init__(self, deferring: bool) -> None:
        self.deferring = deferring
        self.seed = draw_seed() if deferring else 0
        self.initializations: list[Initialization] = []
        self._modules: dict[int, nn.Module] = {}  # of all roots; holding them keeps ids unique
        self._roots = 0
        self._wholes: defaultdict[int, list[Whole]] = defaultdict(list)
        self._pending: dict[int, list[Fill]] = {}
        self._draws: defaultdict[str, int] = defaultdict(int)
        self._unnamed: dict[tuple[Any, ...], tuple[str, StorageWeakRef]] = {}
        self._escaped: dict[int, StorageWeakRef] = {}

    def add_root(self, root: nn.Module) -> None:
        """Take stream names from `root`, unless it is part of a root already here."""
        if id(root) in self._modules:
            return
        prefix = f"#{self._roots}/" if self._roots else ""
        self._roots += 1
        self._modules.update((id(module), module) for _, module in walk(root))
        if self.deferring:
            for name, tensor in named_tensors(root):
                if tensor.layout is torch.strided and not isinstance(tensor, nn.parameter.UninitializedTensorMixin):
                    self._wholes[storage_key(tensor)].append(fills.whole_of(prefix + name, tensor))

    def is_pending(self, storage: int) -> bool:
        return storage in self._pending

    def __bool__(self) -> bool:
        return bool(self._pending)

    def record(self, fill: Fill) -> None:
        """Write later what `fill` says, and forget pending writes that it covers."""
        storage = storage_key(fill.tensor)
        earlier = self._pending.setdefault(storage, [])
        if earlier:
            earlier[:] = [f for f in earlier if not covers(fill.tensor, f.tensor)]
        earlier.append(fill)
        self.wrote(storage)
        if storage in self._escaped:
            self.flush([storage])

    def overwrite(self, tensor: Tensor) -> None:
        """Something else is about to write all of `tensor`: its pending writes are void, and what
        else is pending in the same memory is written first."""
        storage = storage_key(tensor)
        earlier = self._pending.get(storage)
        if earlier:
            earlier[:] = [f for f in earlier if not covers(tensor, f.tensor)]
            self.flush([storage])

    def wrote(self, storage: int) -> None:
        for initialization in self.initializations:
            initialization.wrote(storage)

    def replaced(self, tensor: Tensor) -> None:
        for initialization in self.initializations:
            initialization.replaced(tensor)

    def escape(self, tensor: Tensor) -> None:
        """The memory may be read or written unseen from now on: stop deferring its writes."""
        storage = storage_key(tensor)
        self._escaped[storage] = StorageWeakRef(tensor.untyped_storage())
        for initialization in self.initializations:
            initialization.escaped(storage)

    def flush(self, storages: Iterable[int]) -> None:
        """Execute what is pending for these storages, in one fill."""
        waves: list[list[Fill]] = []
        for storage in storages:
            # Fills of one storage may overlap in part, so they keep their order.
            for depth, fill in enumerate(self._pending.pop(storage, ())):
                if depth == len(waves):
                    waves.append([])
                waves[depth].append(fill)
        for wave in waves:
            fills.execute([self._segment(fill) for fill in wave], [f.tensor for f in wave])

    def finish(self) -> None:
        """Execute everything pending."""
        self.flush(list(self._pending))

    def abandon(self) -> None:
        """Forget everything pending: the memory is as it was."""
        self._pending.clear()

    def _segment(self, fill: Fill) -> tuple[Any, ...]:
        name, start, box = self._place(fill.tensor)
        draw = self._draws[name]
        self._draws[name] = draw + 1
        stream = stream_of(f"{name}@{draw}" if draw else name)
        seed = self.seed if fill.seed is None else fill.seed
        return fills.segment(fill, seed, stream, start, box)

    def _place(self, tensor: Tensor) -> tuple[str, int, Box]:
        """(stream name, start, box) of a tensor: in the first parameter that contains it, else
        on its own."""
        storage = storage_key(tensor)
        own = fills.whole_of("", tensor)
        for whole in self._wholes.get(storage, ()):
            if whole.offset <= own.offset and own.end <= whole.end and whole.tensor.dtype == tensor.dtype:
                place = fills.box_in(tensor, whole.tensor)
                if place is not None:
                    return whole.name, *place
        key = (storage, own.offset, tensor.shape, tensor.stride())
        if key not in self._unnamed:
            # The weak reference keeps the storage's identity from being given to another.
            name = f"#{len(self._unnamed)}"
            self._unnamed[key] = (name, StorageWeakRef(tensor.untyped_storage()))
        place = fills.box_in(tensor, tensor)
        assert place is not None
        return self._unnamed[key][0], *place


def covers(tensor: Tensor, other: Tensor) -> bool:
    """Whether writing all of `tensor` overwrites all of `other`, which shares its storage."""
    if tensor.shape == other.shape and tensor.stride() == other.stride():
        return tensor.storage_offset() == other.storage_offset()
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def serves(tensor: Tensor) -> bool:
    """Whether a fill of this tensor would be native."""
    if _thread.plan is None:
        return is_native() and fills.serves(tensor)
    with torch._C.DisableTorchFunction():
        return _thread.plan.deferring and fills.serves(tensor)


def write(
    tensor: Tensor, kind: int, parameters: tuple[Any, ...], generator: torch.Generator | None = None
) -> bool:
    """Fill a tensor that `serves` accepted, now or in the open plan.

    Returns False, nothing done, for parameters that are torch's to serve or to refuse.
    """
    plan = _thread.plan
    if plan is None:
        return _write_now(tensor, kind, parameters, generator)
    with torch._C.DisableTorchFunction():
        valid = fills.valid_parameters(tensor.dtype, kind, parameters)
        if valid is None:
            plan.flush([storage_key(tensor)])  # torch writes next
            plan.wrote(storage_key(tensor))
            return False
        if tensor.numel() > 0:
            seed = None if generator is None else draw_seed(generator)
            plan.record(Fill(tensor, kind, valid, seed))
    return True


def _write_now(
    tensor: Tensor, kind: int, parameters: tuple[Any, ...], generator: torch.Generator | None
) -> bool:
    valid: Parameters | None = fills.valid_parameters(tensor.dtype, kind, parameters)
    if valid is None:
        return False
    if tensor.numel() > 0:
        place = fills.box_in(tensor, tensor)
        assert place is not None
        seed = 0 if kind == fills.CONSTANT else draw_seed(generator)
        fill = Fill(tensor, kind, valid, seed)
        fills.execute([fills.segment(fill, seed, _SINGLE, *place)], (tensor,))
    return True


@contextmanager
def opened(root: nn.Module) -> Iterator[Plan]:
    """Join this thread's plan, or open one that is executed, in one fill, when the block ends.

    An exception leaving the outermost block abandons what is pending.
    """
    from fastinit.capture import Capture

    if _thread.plan is not None:
        _thread.plan.add_root(root)
        yield _thread.plan
        return
    plan = Plan(deferring=is_native())
    plan.add_root(root)
    _thread.plan = plan
    try:
        with Capture(plan):
            yield plan
        plan.finish()
    except BaseException:
        plan.abandon()
        raise
    finally:
        _thread.plan = None


@contextmanager
def initializing(root: nn.Module) -> Iterator[Initialization]:
    """`opened`, with the provenance of a top-level `init_weights` of `root`."""
    with opened(root) as plan:
        initialization = Initialization(root)
        plan.initializations.append(initialization)
        try:
            yield initialization
        finally:
            plan.initializations.remove(initialization)


def initialization_of(module: nn.Module) -> Initialization | None:
    """The innermost running initialization that covers `module`."""
    running = _thread.plan.initializations if _thread.plan is not None else ()
    return next((i for i in reversed(running) if i.covers(module)), None)
