"""The plan: fills recorded, last write wins, executed together.

A plan belongs to one thread. Under the native backend it defers: writes are records until
something reads the memory (see `capture`) or the outermost `opened` block ends. Under the torch
backend nothing is deferred and the plan only keeps provenance.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.kernels import fills
from fastinit.kernels.backends import is_native
from fastinit.kernels.cuda import Place, is_capturing, place_of
from fastinit.kernels.fills import Copy, Fill, Record
from fastinit.plan import fan_groups as fans
from fastinit.plan import seeds
from fastinit.plan.ledger import Ledger
from fastinit.plan.provenance import Initialization
from fastinit.tensors.names import Held, hold, named_tensors, storage_key, stream_of, walk

Modules = list[tuple[str, nn.Module]]  # as `walk` gives them


class _Thread(threading.local):
    plan: Plan | None = None


_thread = _Thread()
_TORCH: dict[int, Callable[..., Any]] = {
    fills.CONSTANT: Tensor.fill_,
    fills.UNIFORM: Tensor.uniform_,
    fills.NORMAL: Tensor.normal_,
    fills.TRUNC_NORMAL: torch.nn.init._no_grad_trunc_normal_,
}
_STRIDED = torch.strided
_SINGLE = stream_of("#0")  # a tensor filled on its own has no name


def current() -> Plan | None:
    """The plan open in this thread."""
    return _thread.plan


def is_joined(module: nn.Module) -> bool:
    """Whether this thread's plan has `module` in one of its roots."""
    plan = _thread.plan
    return plan is not None and id(module) in plan._modules


class Plan:
    """What is written by which rule, until it is executed.

    Attributes:
        seed: the 64-bit Philox key of every fill that brings no generator of its own.
        deferring: whether writes are recorded; otherwise they have happened already.
        deferring_copies: whether `copy_` is recorded too, see `deferred_copies`.
        everything: whether memory of any kind waits, and account is kept, see `FusedPlan`;
            otherwise only parameters and buffers of the roots wait.
        awaits_root: whether names are to come from a root that is not known yet, and no other.
        rule: what asks for fills at the moment, where account of that is kept.
        unmatched: rules that wrote nothing, in words.
        explicit_seed: the seed if one was given, rather than drawn.
        initializations: provenance of the `init_weights` running in this plan, outermost first.
    """

    everything = False

    def __init__(self, deferring: bool, seed: int | None = None) -> None:
        self.deferring = deferring
        self.deferring_copies = False
        self.explicit_seed = seed
        self.awaits_root = False
        self.rule = ""
        self.unmatched: list[str] = []
        self.seed = seed if seed is not None else seeds.drawn() if deferring else 0
        self.initializations: list[Initialization] = []
        self._modules: dict[int, nn.Module] = {}  # of all roots; holding them keeps ids unique
        self._roots = 0
        self._is_captured = is_capturing()
        self._ledger = Ledger(keeps_drawn=self.everything)
        self._held: list[Held] = []
        self._pending: dict[int, list[Record]] = {}
        self._escaped: dict[int, Held] = {}

    def add_root(self, root: nn.Module, modules: Modules | None = None) -> None:
        """Take stream names from `root`, whose walk is `modules`, unless it is part of a root
        already here."""
        if self.awaits_root or id(root) in self._modules:
            return
        prefix = f"#{self._roots}/" if self._roots else ""
        self._roots += 1
        if modules is None:
            modules = walk(root)
        self._modules |= {id(module): module for _, module in modules}
        if not self.deferring:
            return
        with torch._C.DisableTorchFunction():  # the mode is for others
            for name, tensor in named_tensors(modules):
                if tensor.layout is _STRIDED and not is_lazy(tensor):
                    self._ledger.add(prefix + name, tensor)

    @property
    def has_fan_groups(self) -> bool:
        """Whether any were declared when the plan was opened."""
        return self._ledger.has_fan_groups

    def serves(self, tensor: Tensor) -> bool:
        """Whether fills of the tensor are the plan's."""
        return fills.serves(tensor)

    def keeps(self, tensor: Tensor, kind: int, parameters: tuple[Any, ...]) -> bool:
        """Whether the plan takes note of a fill that the kernels do not serve, and torch need not
        carry it out."""
        return False

    def is_pending(self, storage: int) -> bool:
        return storage in self._pending

    def __bool__(self) -> bool:
        return bool(self._pending)

    def record(self, fill: Record) -> None:
        """Write later what `fill` says, and forget pending writes that it covers."""
        storage = storage_key(fill.tensor)
        earlier = self._pending.get(storage)
        if earlier:
            earlier[:] = [f for f in earlier if not covers(fill.tensor, f.tensor)]
            earlier.append(fill)
        else:
            self._pending[storage] = [fill]
        self.wrote(storage)
        defers = self.everything or storage in self._ledger.named
        if type(fill) is Fill and fill.place is not None and is_capturing() != self._is_captured:
            defers = False  # the capture may be over before the plan is
        if storage in self._escaped or not defers:
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

    def computed(self, tensor: Tensor) -> None:
        """Code wrote this memory, and not by a fill."""
        self.wrote(storage_key(tensor))

    def allocated(self, tensor: Tensor) -> None:
        """The tensor's memory is new, and holds nothing that anybody wrote."""

    def carried(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The tensor moved or cast, where no values are needed for it."""
        return None

    def retire(self, tensor: Tensor) -> None:
        """The tensor is about to get other memory; what it had must not lend its identity."""
        if tensor.layout is torch.strided and not is_lazy(tensor):
            self._held.append(hold(tensor))

    def replaced(self, tensor: Tensor) -> None:
        for initialization in self.initializations:
            initialization.replaced(tensor)

    def escape(self, tensor: Tensor) -> None:
        """The memory may be read or written unseen from now on: stop deferring its writes."""
        storage = storage_key(tensor)
        self._escaped[storage] = hold(tensor)
        for initialization in self.initializations:
            initialization.escaped(storage)

    def flush(self, storages: Iterable[int]) -> None:
        """Execute what is pending for these storages, in one fill."""
        waves: list[list[tuple[int, Record]]] = []
        for storage in storages:
            # Fills of one storage may overlap in part, so they keep their order.
            for depth, fill in enumerate(self._pending.pop(storage, ())):
                if depth == len(waves):
                    waves.append([])
                waves[depth].append((storage, fill))
        errors: list[ValueError] = []
        with torch.no_grad(), torch._C.DisableTorchFunction():
            for wave in waves:
                tables: dict[Place | None, list[tuple[Any, ...]]] = {}
                for storage, fill in wave:
                    if type(fill) is Fill:
                        try:
                            rows = self._ledger.draw(storage, fill, self.seed_of(fill))
                        except ValueError as error:  # of fan groups
                            if not self.everything:
                                raise
                            errors.append(error)  # when all others are filled
                        else:
                            tables.setdefault(fill.place, []).extend(rows)
                if not self.everything:
                    fills.mark_all_written([fill.tensor for _, fill in wave])
                for place, table in tables.items():
                    try:
                        fills.execute(place, table)
                    except fills.Overlap:  # two storages over the same memory: torch.from_numpy's
                        for row in table:
                            fills.execute(place, [row])
                for _, copy in wave:
                    if type(copy) is Copy:
                        copy.tensor.copy_(copy.source)
        if errors:
            raise errors[0]

    def finish(self) -> None:
        """Execute everything pending."""
        self.flush(list(self._pending))

    def origin(self) -> str:
        """What asks for a fill, if account of that is kept."""
        return ""

    def seed_of(self, fill: Fill) -> int:
        return self.seed if fill.seed is None else fill.seed

    def abandon(self) -> None:
        """Forget everything pending: the memory is as it was."""
        self._pending.clear()


def covers(tensor: Tensor, other: Tensor) -> bool:
    """Whether writing all of `tensor` overwrites all of `other`, which shares its storage."""
    same = tensor.shape == other.shape and tensor.stride() == other.stride()
    if same and tensor.dtype == other.dtype:
        return tensor.storage_offset() == other.storage_offset()
    return covers_storage(tensor)


def covers_storage(tensor: Tensor) -> bool:
    """Whether the tensor is all of its memory, and has each element once."""
    size = tensor.numel() * tensor.element_size()
    return size == tensor.untyped_storage().nbytes() and fills.is_injective(tensor)


def write(
    tensor: Tensor,
    kind: int,
    parameters: tuple[Any, ...],
    generator: torch.Generator | None = None,
    rule: fans.Rule | None = None,
) -> bool:
    """Fill a tensor natively: now, or in the open plan. `rule` has the parameters of any shape.

    Returns False, nothing done, where that is torch's to do or to refuse: another device, dtype or
    layout, parameters out of range, the torch backend.
    """
    plan = _thread.plan
    if plan is None:
        if not (is_native() and fills.serves(tensor)):
            return False
        valid = fills.valid_parameters(tensor.dtype, kind, parameters)
        if valid is not None and tensor.numel() > 0:
            seed = 0 if kind == fills.CONSTANT else seeds.drawn(generator)
            start, box = fills.own_box(tensor)
            fills.mark_written(tensor)  # first: Ctrl-C may end the fill anywhere
            row = fills.segment(tensor, kind, valid, seed, _SINGLE, start, box)
            fills.execute(place_of(tensor), [row])
        return valid is not None
    if not (plan.deferring and is_native()):
        return False
    with torch._C.DisableTorchFunction():
        if not plan.serves(tensor):
            return plan.keeps(tensor, kind, parameters)
        valid = fills.valid_parameters(tensor.dtype, kind, parameters)
        if valid is None:
            # torch comes next. What it refuses, it shall refuse before anything is written.
            _TORCH[kind](tensor.new_empty(0), *parameters)
            plan.flush([storage_key(tensor)])
            plan.computed(tensor)
        elif tensor.numel() > 0:
            own_seed = None if generator is None else seeds.drawn(generator)
            place = place_of(tensor)
            plan.record(Fill(tensor, kind, valid, own_seed, place, plan.origin(), rule))
    return valid is not None


def opened(root: nn.Module, modules: Modules | None = None) -> AbstractContextManager[Plan]:
    """Join this thread's plan, or open one that is executed, in one fill, when the block ends.

    An exception leaving the outermost block abandons what is pending. `modules` is the root's walk,
    where the caller has it.
    """
    plan = _thread.plan
    if plan is None:
        return _opened(root, modules)
    plan.add_root(root, modules)
    return nullcontext(plan)


@contextmanager
def as_origin(text: Callable[[], str]) -> Iterator[None]:
    """Name what asks for the fills in the block, where account of that is kept."""
    plan = _thread.plan
    if plan is None or not plan.everything:
        yield
        return
    before, plan.rule = plan.rule, text()
    try:
        yield
    finally:
        plan.rule = before


@contextmanager
def active(plan: Plan) -> Iterator[None]:
    """Make it this thread's plan for the block."""
    _thread.plan = plan
    try:
        yield
    finally:
        _thread.plan = None


@contextmanager
def _opened(root: nn.Module, modules: Modules | None) -> Iterator[Plan]:
    from fastinit.capture.mode import Capture

    plan = Plan(deferring=is_native())
    plan.add_root(root, modules)
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
def initializing(root: nn.Module, modules: Modules) -> Iterator[Initialization]:
    """`opened`, with the provenance of a top-level `init_weights` of `root`."""
    with opened(root, modules) as plan:
        initialization = Initialization(root, [module for _, module in modules])
        plan.initializations.append(initialization)
        try:
            yield initialization
        finally:
            plan.initializations.remove(initialization)


@contextmanager
def deferred_copies() -> Iterator[None]:
    """Within a plan that defers, let `copy_` wait as fills do, so that an error undoes it.

    For code whose sources nobody else will change: they are kept until the plan is executed.
    """
    plan = _thread.plan
    if plan is None or not plan.deferring:
        yield
        return
    plan.deferring_copies = True
    try:
        yield
    finally:
        plan.deferring_copies = False


def initialization_of(module: nn.Module) -> Initialization | None:
    """The innermost running initialization that covers `module`."""
    running = _thread.plan.initializations if _thread.plan is not None else ()
    return next((i for i in reversed(running) if i.covers(module)), None)
