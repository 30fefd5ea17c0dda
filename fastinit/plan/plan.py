"""The plan: fills recorded, last write wins, executed together.

A plan belongs to one thread. On the native backend it defers: writes are records until something
reads the memory (see `capture/`) or the outermost block ends. On the torch backend writes happen at
once, and the plan only notes them for provenance. What waits for which memory, the names and what
was drawn are kept by the native recorder (csrc/record/); the plan decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from enum import Enum
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.kernels import tails
from fastinit.kernels.cuda import current_places
from fastinit.kernels.native import _C
from fastinit.manifest.manifest import Manifest
from fastinit.plan import fan_groups, parts, seeds
from fastinit.plan.account import Account
from fastinit.plan.casts import adopt_fills, as_at_the_end, name_source
from fastinit.plan.draws import Draws
from fastinit.plan.executor import KernelExecutor
from fastinit.plan.records import Cast, Copy, Fill, Record
from fastinit.plan.scope import Scope
from fastinit.plan.sharded import Sharded
from fastinit.tensors import torch_private
from fastinit.tensors.shards import is_dtensor, may_be_flattened, require_loaded, require_own
from fastinit.tensors.storage import has_memory, storage_key
from fastinit.tensors.torch_private import unwatched
from fastinit.tensors.walk import Modules, named_tensors

if TYPE_CHECKING:
    from rich.table import Table

    from fastinit._C import Recorder


def _has_memory(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not is_lazy(tensor) and not is_dtensor(tensor)


class Copies(Enum):
    """The treatment of a `copy_` to a whole tensor."""

    EXECUTED = "it is executed, and what was pending for the tensor forgotten"
    KEPT = "it waits as fills do; nobody changes its source meanwhile"


class Plan:
    """A plan: it records writes, and executes them together.

    `fused` opens a plan with an account, in which writes of any memory wait. An `init_weights`
    opens one without, in which only writes of its roots' parameters and buffers wait.

    Args:
        deferring: whether writes are recorded; otherwise they are only noted.
        seed: the seed, in [0, 2^64); by default it is drawn from torch's default generator.
        account: the account of all writes; by default none is kept.
        executor: carries out what the recorder does not; by default the kernels' one.
        prefix: stands before every name.

    Attributes:
        seed: the 64-bit Philox key of every fill that brings no generator of its own.
        is_open: whether the plan may record; False from `close` on.
        explicit_seed: the seed that was given; None if it was drawn.
        ungrouped: tensors without a name whose matrices were made regardless of fan groups.
        draws: what torch's own random functions draw from; None without an explicit seed.
        copies: the treatment of `copy_`, see `current.deferred_copies`.
        recorder: keeps the records, and executes fills on the CPU; None if the plan does not defer.
        sharded: knows the DTensors.
        scope, executor, account: the other parts.
    """

    def __init__(
        self,
        deferring: bool,
        seed: int | None = None,
        *,
        account: Account | None = None,
        executor: parts.Executor | None = None,
        prefix: str = "",
    ) -> None:
        self.deferring = deferring
        self.copies = Copies.EXECUTED
        self.explicit_seed = seed
        self.seed = seed if seed is not None else seeds.draw_seed() if deferring else 0
        self.draws = None if seed is None else Draws(seed)
        self.account = account
        self.executor: parts.Executor = KernelExecutor() if executor is None else executor
        self.recorder: Recorder | None = None
        if _C is not None:
            _C.look_for_flat(may_be_flattened())
        self._groups = fan_groups.declared()
        self.has_fan_groups = bool(self._groups)
        self.ungrouped: list[Tensor] = []
        if deferring:
            assert _C is not None
            groups = fan_groups.blocks_by(self._groups) if self.has_fan_groups else None
            keeps_account = account is not None
            self.recorder = _C.Recorder(keeps_account, self.seed, groups)
            self.recorder.prefix = prefix
            self.recorder.streams = current_places()
        self.scope = Scope(self.recorder)
        self.scope.prefix = prefix
        self.sharded = Sharded(self)
        self.is_open = True
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._thread = get_ident()

    @property
    def is_here(self) -> bool:
        """Whether the plan is still open, and was opened in this thread."""
        return self.is_open and self._thread == get_ident()

    @property
    def pending(self) -> Recorder:
        """The recorder of a plan that defers."""
        assert self.recorder is not None
        return self.recorder

    # --- names ----------------------------------------------------------------------------------

    def add_root(self, root: nn.Module, modules: Modules | None = None) -> None:
        """Name the parameters and buffers of `root`, whose walk is `modules`, for their streams.

        A root that is part of an earlier one is not added again.
        """
        added = self.scope.add(root, modules)
        if added is None or self.recorder is None:
            return
        prefix, modules = added
        require_loaded(modules)
        if may_be_flattened():
            for name, tensor in named_tensors(modules):
                require_own(tensor, name)
        with unwatched():
            self.recorder.add_names(modules, prefix, self.named_memory)

    def named_memory(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return the tensor that a name of this parameter or buffer is for: of a DTensor its local
        part; None without ordinary memory."""
        if is_dtensor(tensor):
            return self.sharded.named_memory(name, tensor)
        return tensor if _has_memory(tensor) else None

    # --- what code does ---------------------------------------------------------------------------

    def record(self, record: Record) -> None:
        """Let a write wait, and drop the pending writes that it covers."""
        storage = storage_key(record.tensor)
        self._deliver_casts(storage)
        may_wait = self.pending.record(record)
        if self.pending.is_calling():  # what reads it next is not seen
            may_wait = False
        if not may_wait:
            self.flush([storage])

    def record_tail(self, tensor: Tensor, operation: tails.Operation) -> bool:
        """Let an operation on a tensor wait with its fill; return whether one waits."""
        if self.pending.has_casts:  # as a look at the manifest would
            adopt_fills(self.pending, storage_key(tensor))
        fill = self.pending.last_fill(tensor)
        if fill is None:
            return False
        self.pending.replace_last(fill._replace(tensor=tensor).followed_by(operation))
        return True

    def record_copy(self, target: Tensor, source: Tensor) -> None:
        """Let a copy to a whole tensor wait."""
        self.record(Copy(target.detach(), source))

    def overwrite(self, tensor: Tensor) -> None:
        """Prepare for a write of all of `tensor` by other code: drop the pending writes that it
        would overwrite, and execute the others of the same storage."""
        storage = storage_key(tensor)
        self._deliver_casts(storage)
        if storage in self.pending:
            self.pending.void(tensor)
            self.flush([storage])

    def _deliver_casts(self, storage: int) -> None:
        """Execute the casts from this storage before it changes."""
        if self.pending.has_casts and self.pending.awaiting(storage):
            self.flush([storage])

    def computed(self, tensor: Tensor) -> None:
        """Note that code wrote this memory, not by a fill."""
        if self.recorder is None:
            self.scope.writes.wrote(tensor)
        else:
            self.recorder.computed(tensor)

    def retire(self, tensor: Tensor) -> int:
        """Prepare for a tensor that gets other memory: what waits stays with the memory, whose
        storage key is not reused. Return that key, for `replaced`."""
        if self.recorder is not None and _has_memory(tensor):
            return self.recorder.retired(tensor)
        return 0

    def replaced(self, tensor: Tensor, old: int) -> None:
        """Note that the tensor has other memory than the storage `old` now."""
        self.scope.replaced(tensor)
        if self.recorder is not None and self.account is not None and _has_memory(tensor):
            self.pending.follow(tensor, old)

    def escape(self, tensor: Tensor) -> None:
        """Stop deferring writes of memory that may be read or written unseen from now on."""
        self.scope.escaped(storage_key(tensor))
        if self.recorder is None:
            return
        self.recorder.escaped(tensor)
        if self.account is not None:
            self.computed(tensor)

    # --- execution --------------------------------------------------------------------------------

    def flush(self, storages: Iterable[int]) -> None:
        """Execute what is pending for these storages, together. What an error kept from being
        written stays pending.

        Raises:
            ValueError: fan groups that do not fit a tensor.
            RuntimeError: a tensor whose storage was resized since.
            With an account, either is raised after all other fills are done.
        """
        recorder = self.recorder
        if not recorder:
            return
        storages = list(storages)
        errors: list[Exception] = []
        named: list[int] = []  # sources of casts, for now
        try:
            if recorder.has_casts:
                with unwatched():  # the mode is on where a patch of torch has come here
                    for storage in storages:
                        if cast := adopt_fills(recorder, storage):
                            named += name_source(recorder, cast)
                            self._collect(errors, [storage_key(cast.source)])
            self._execute(errors, storages)
        finally:
            for source in named:
                recorder.unname(source)
        if errors:
            raise errors[0]

    def _execute(self, errors: list[Exception], storages: list[int]) -> None:
        """Execute what waits for storages, and then casts from them."""
        recorder = self.pending
        try:
            recorder.execute(storages, self._executed, self.executor.launch)
        except (ValueError, RuntimeError) as error:
            if self.account is None:
                raise
            errors.append(error)
        if recorder.has_casts:
            for storage in storages:
                for cast in recorder.pop_casts_from(storage):
                    try:
                        self._executed(cast)
                    except RuntimeError as error:  # of memory that is gone: the others are written
                        errors.append(error)

    def execute_first(self, value: Any) -> None:
        """Execute everything pending that a call with these arguments could read."""
        if not self.recorder:
            return
        is_traced = torch_private.is_traced()
        with torch_private.untraced() if is_traced else nullcontext():
            storages = None if is_traced else self.recorder.waiting_in(value)
            if storages is None:  # other code may run, or it is not known what a tensor is made of
                self.finish()
            elif storages:
                self.flush(storages)

    def launch_waiting(self) -> None:
        """Execute what waits if fills on GPUs may be among it: what code does with streams and
        graphs next is in the order of launches."""
        if self.recorder is not None and self.recorder.has_launches:
            self.finish()

    def _collect(self, errors: list[Exception], storages: list[int]) -> None:
        try:
            self.flush(storages)
        except (ValueError, RuntimeError) as error:
            errors.append(error)

    def _executed(self, record: Record) -> None:
        """Carry out a copy or cast, or the tail of a fill."""
        if isinstance(record, Fill):
            self.apply_tail(record.tensor, record.tail)
            return
        with torch.no_grad(), unwatched():
            for tensor in (record.tensor, record.source):
                if not has_memory(tensor):
                    raise RuntimeError(
                        f"a copy of shape {tuple(tensor.shape)} has lost its memory: its storage "
                        "was resized while the copy waited; resize storages outside of the plan, "
                        "or read the tensor before"
                    )
            self.executor.copy(record.tensor, record.source)
            if isinstance(record, Cast):
                self.computed(record.tensor)
            elif self.account is not None:
                self.pending.copied(record.tensor)

    def apply_tail(self, tensor: Tensor, tail: tails.Tail) -> None:
        """Carry out the operations that follow a fill of a tensor."""
        if not self._groups or tails.is_pointwise(tail):
            tails.apply(tensor, tail)
            return
        with unwatched():
            names = [
                name
                for name, named in self.pending.named(storage_key(tensor))
                if named.shape == tensor.shape and named.storage_offset() == tensor.storage_offset()
            ]
        if not names:
            self.ungrouped.append(tensor.detach())
        tails.apply(tensor, tail, fan_groups.matrices(names, tensor.shape, self._groups))

    def finish(self, is_end: bool = False) -> None:
        """Execute everything pending, except for memory that no code holds any more."""
        recorder = self.recorder
        if self.sharded.loans:
            with unwatched():
                self.sharded.settle(is_end)
                self.sharded.show(self.sharded.loans)
        if not recorder:
            return
        if recorder.has_casts:
            self.flush([s for s in recorder.storages() if not recorder.is_orphan(s)])
        else:
            recorder.finish(self._executed, self.executor.launch)
        recorder.clear()

    def close(self) -> None:
        """Hold no memory for the plan any more: nothing is recorded from now on."""
        self.is_open = False
        if self.recorder is not None:
            self.recorder.closed()

    def keep_from_torch(self, tensor: Tensor) -> None:
        """In the plan of an `init_weights`, keep what a fill that is left to torch overwrites."""
        if self.account is None and tensor.layout is torch.strided:
            self._kept.append((tensor, tensor.detach().clone()))

    def abandon(self) -> None:
        """Drop everything pending, and restore what fills that torch carried out have overwritten;
        other memory stays as it is."""
        self.sharded.loans.clear()
        if self.recorder is not None:
            self.recorder.clear()
        with torch.no_grad(), unwatched():
            for tensor, before in reversed(self._kept):
                tensor.copy_(before)
        self._kept.clear()

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
        if self.recorder is None:
            return Manifest((), tuple(self.account.unmatched))
        with unwatched(), as_at_the_end(self.recorder):
            return self.account.manifest(self.recorder, self.sharded.dtypes())

    def order_dependent(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Return (name, shape, origin) of tensors that random values were or will be drawn for
        before they have a name; of those without one later, the name is "#n"."""
        if self.recorder is None:
            return []
        with unwatched(), as_at_the_end(self.recorder):
            return self.recorder.order_dependent()
