"""The plan: fills recorded, last write wins, executed together.

A plan belongs to one thread. On the native backend it defers: writes are records until something
reads the memory (see `capture/`) or the outermost block ends. On the torch backend writes happen at
once, and the plan only notes them for provenance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.kernels.cuda import is_capturing
from fastinit.kernels.supported import mark_all_written, mark_written
from fastinit.kernels.table import Row
from fastinit.manifest.manifest import Manifest
from fastinit.plan import parts, seeds
from fastinit.plan.account import Account
from fastinit.plan.executor import KernelExecutor
from fastinit.plan.ledger import Ledger
from fastinit.plan.pending import PendingRecords
from fastinit.plan.records import Cast, Copy, Fill, Record, onto
from fastinit.plan.scope import Scope
from fastinit.tensors.storage import covers_storage, hold, storage_key
from fastinit.tensors.torch_private import Held, storage_users, unwatched
from fastinit.tensors.walk import Modules, named_tensors

if TYPE_CHECKING:
    from rich.table import Table


class Copies(Enum):
    """The treatment of a `copy_` to a whole tensor."""

    EXECUTED = "it is executed, and what was pending for the tensor forgotten"
    KEPT = "it waits as fills do; nobody changes its source meanwhile"
    SNAPSHOT = "it waits, with its source as it is now"


class Plan:
    """A plan: it records writes, and executes them together.

    `fused` opens a plan with an account, in which writes of any memory wait. An `init_weights`
    opens one without, in which only writes of its roots' parameters and buffers wait. A dry run is
    a plan whose executor writes nothing.

    Args:
        deferring: whether writes are recorded; otherwise they are only noted.
        seed: the seed, in [0, 2^64); by default it is drawn from torch's default generator.
        account: the account of all writes; by default none is kept.
        executor: carries records out; by default by the kernels.
        pending: keeps records until then.

    Attributes:
        seed: the 64-bit Philox key of every fill that brings no generator of its own.
        explicit_seed: the seed that was given; None if it was drawn.
        copies: the treatment of `copy_`, see `current.deferred_copies`.
        scope, pending, ledger, executor, account: the parts.
    """

    def __init__(
        self,
        deferring: bool,
        seed: int | None = None,
        *,
        account: Account | None = None,
        executor: parts.Executor | None = None,
        pending: parts.Pending | None = None,
    ) -> None:
        self.deferring = deferring
        self.copies = Copies.EXECUTED
        self.explicit_seed = seed
        self.seed = seed if seed is not None else seeds.draw_seed() if deferring else 0
        self.scope = Scope()
        self.account = account
        self.ledger = Ledger(keeps_drawn=account is not None)
        self.executor: parts.Executor = KernelExecutor() if executor is None else executor
        self.pending: parts.Pending = PendingRecords() if pending is None else pending
        self._is_captured = is_capturing()
        self._held: list[Held] = []
        self._escaped: dict[int, Held] = {}

    # --- names ----------------------------------------------------------------------------------

    def add_root(self, root: nn.Module, modules: Modules | None = None) -> None:
        """Name the parameters and buffers of `root`, whose walk is `modules`, for their streams.

        A root that is part of an earlier one is not added again.
        """
        added = self.scope.add(root, modules)
        if added is None or not self.deferring:
            return
        prefix, modules = added
        with unwatched():
            for name, tensor in named_tensors(modules):
                if tensor.layout is torch.strided and not is_lazy(tensor):
                    self.ledger.add(prefix + name, tensor)

    # --- what code does ---------------------------------------------------------------------------

    def record(self, record: Record) -> None:
        """Let a write wait, and drop the pending writes that it covers."""
        if self.account is not None:
            # Autograd learns of the write now, as it would eagerly. The record keeps an alias,
            # because the object may get other memory unseen (`Tensor.set_`).
            mark_written(record.tensor)
            record = record._replace(tensor=record.tensor.detach())
        storage = storage_key(record.tensor)
        if self.account is not None:
            self.account.recorded(storage, record.tensor)
        self._deliver_casts(storage)
        self.pending.add(storage, record)
        self.scope.wrote(storage)
        if not self._may_wait(storage, record):
            self.flush([storage])

    def record_copy(self, target: Tensor, source: Tensor) -> None:
        """Let a copy to a whole tensor wait, as `copies` says."""
        if self.copies is Copies.SNAPSHOT:
            self.overwrite(target)
            source = source.detach().clone()
        self.record(Copy(target, source))

    def _may_wait(self, storage: int, record: Record) -> bool:
        if storage in self._escaped:
            return False
        if self.account is None:
            if storage not in self.ledger.named:
                return False
        elif not record.tensor.untyped_storage().resizable():  # NumPy's memory, for example
            return False
        on_gpu = type(record) is Fill and record.place is not None
        return not (on_gpu and is_capturing() != self._is_captured)  # a capture may end first

    def overwrite(self, tensor: Tensor) -> None:
        """Prepare for a write of all of `tensor` by other code: drop the pending writes that it
        would overwrite, and execute the others of the same storage."""
        storage = storage_key(tensor)
        self._deliver_casts(storage)
        if storage in self.pending:
            self.pending.void(storage, tensor)
            self.flush([storage])

    def _deliver_casts(self, storage: int) -> None:
        """Execute the casts from this storage before it changes."""
        if self.pending.has_casts and self.pending.awaiting(storage):
            self.flush([storage])

    def computed(self, tensor: Tensor, value: Tensor | None = None) -> None:
        """Note that code wrote this memory, not by a fill; on meta, `value` may say what."""
        storage = storage_key(tensor)
        self.scope.wrote(storage)
        if self.account is not None:
            self.account.computed(storage, tensor, value)

    def retire(self, tensor: Tensor) -> None:
        """Keep the storage key of a tensor that is about to get other memory from being reused."""
        if tensor.layout is torch.strided and not is_lazy(tensor):
            self._held.append(hold(tensor))

    def replaced(self, tensor: Tensor) -> None:
        """Note that the tensor has other memory than before."""
        self.scope.replaced(tensor)
        if self.account is not None and tensor.layout is torch.strided and not is_lazy(tensor):
            self.ledger.follow(tensor)

    def escape(self, tensor: Tensor) -> None:
        """Stop deferring writes of memory that may be read or written unseen from now on."""
        storage = storage_key(tensor)
        self._escaped[storage] = hold(tensor)
        self.scope.escaped(storage)
        if self.account is not None:
            self.computed(tensor)

    # --- execution --------------------------------------------------------------------------------

    def flush(self, storages: Iterable[int]) -> None:
        """Execute what is pending for these storages, together.

        Raises:
            ValueError: fan groups that do not fit a tensor. With an account it is raised after all
                other fills are done.
        """
        storages = list(storages)
        errors: list[ValueError] = []
        has_casts = self.pending.has_casts
        if has_casts:
            for storage in storages:
                self.adopt_fills(storage)
                if cast := self.pending.cast_to(storage):
                    try:
                        self.flush([storage_key(cast.source)])
                    except ValueError as error:
                        errors.append(error)
        with torch.no_grad(), unwatched():
            for wave in self.pending.take(storages):
                self._execute(wave, errors)
            if has_casts:
                for storage in storages:
                    for target, source in self.pending.pop_casts_from(storage):
                        self.executor.copy(target, source)
                        self.computed(target)
        if errors:
            raise errors[0]

    def _execute(self, wave: parts.Wave, errors: list[ValueError]) -> None:
        drawn: list[tuple[Fill, Sequence[Row]]] = []
        for storage, record in wave:
            if self.account is not None and self.account.values:
                self.account.executed(storage)
            if type(record) is Fill:
                try:
                    rows = self.ledger.draw(storage, record, self.seed_of(record))
                except ValueError as error:  # of fan groups
                    if self.account is None:
                        raise
                    errors.append(error)
                else:
                    drawn.append((record, rows))
        if self.account is None:
            mark_all_written([record.tensor for _, record in wave])
        self.executor.fill(drawn)
        for storage, record in wave:
            if type(record) is Copy:
                self.executor.copy(record.tensor, record.source)
                if self.account is not None:
                    self.account.copied(storage, record)

    def adopt_fills(self, storage: int) -> None:
        """If a cast waits whose source no code holds any more, replace it by the source's fills."""
        cast = self.pending.cast_to(storage)
        if cast is None:
            return
        source = storage_key(cast.source)
        self.adopt_fills(source)
        fills_of_source = self.pending.of(source)
        if (
            fills_of_source
            and self.pending.awaiting(source) == [storage]
            and all(type(fill) is Fill for fill in fills_of_source)
            and covers_storage(fills_of_source[0].tensor)
            and self.is_orphan(source)
        ):
            self.pending.pop(source)
            self._hand_over(cast, fills_of_source, source, storage)

    def _hand_over(self, cast: Cast, fills: Sequence[Record], source: int, storage: int) -> None:
        memory, dtype = cast.tensor.untyped_storage(), cast.tensor.dtype
        moved = [onto(fill, memory, dtype) for fill in fills if type(fill) is Fill]
        self.pending.put(storage, [*moved, *self.pending.of(storage)[1:]])
        if self.account is not None:
            self.account.took_over(storage, source)

    def is_orphan(self, storage: int) -> bool:
        """Whether only records still hold the memory, as of a weight replaced by a tied one."""
        if storage in self.ledger.named:
            return False
        holders = len(self.pending.of(storage)) + len(self.pending.awaiting(storage))
        return storage_users(storage) <= holders

    def finish(self) -> None:
        """Execute everything pending, except for memory that no code holds any more."""
        self.flush([storage for storage in self.pending.storages() if not self.is_orphan(storage)])
        self.pending.clear()

    def abandon(self) -> None:
        """Drop everything pending; the memory stays as it is."""
        self.pending.clear()

    def seed_of(self, fill: Fill) -> int:
        return self.seed if fill.seed is None else fill.seed

    # --- the account ------------------------------------------------------------------------------

    def table(self) -> Table:
        """Return `manifest` as a table for `rich.print`."""
        return self.manifest().table()

    def to_json(self) -> str:
        """Return `manifest` as JSON text, for `regenerate` and `verify`."""
        return self.manifest().to_json()

    def manifest(self) -> Manifest:
        """Return the fills of all named tensors and of those drawn without a name, with what is
        pending counted as executed.

        Raises:
            RuntimeError: this is the plan of an `init_weights`, which keeps no account.
        """
        if self.account is None:
            raise RuntimeError(
                "the plan of an init_weights keeps no account; open one around it, with fused()"
            )
        with unwatched():
            return self.account.manifest(self.preview(), self.pending)

    def preview(self) -> Ledger:
        """Return the ledger as it will be when everything pending is executed."""
        storages = self.pending.storages()
        for storage in storages:
            self.adopt_fills(storage)
        ledger = self.ledger.copy()
        wanted = {s: self.pending.of(s) for s in self.pending.storages() if not self.is_orphan(s)}
        for wave in zip_longest(*wanted.values()):  # in the order of `flush`
            for storage, record in zip(wanted, wave, strict=True):
                if type(record) is Fill:
                    ledger.draw(storage, record, self.seed_of(record))
        return ledger
