"""The DTensors of a plan: which part of the whole a shard is, and wholes lent to code.

A fill of a DTensor is one of its local memory, which the recorder knows as a part of a larger
tensor. Code that computes gets the whole tensor in ordinary memory, on loan: it takes over the
names and what waits, and when no code holds a view of it any more, each rank keeps its part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinit.kernels import tails
from fastinit.kernels.distributions import CONSTANT
from fastinit.plan import ranks
from fastinit.plan.draws import Draws
from fastinit.plan.parts import Host
from fastinit.plan.records import Fill, Taken
from fastinit.tensors import boxes
from fastinit.tensors.shards import Region, is_replicated, local_region
from fastinit.tensors.storage import storage_key
from fastinit.tensors.torch_private import local_tensor


class Loan(NamedTuple):
    """A whole tensor in the place of a shard.

    Attributes:
        whole: its memory.
        region: the shard.
        has_fills: whether what waited for the shard went with it.
        clock: the recorder's, when it was lent.
        shown: the recorder's, when the shard last had the values of the whole.
    """

    whole: Tensor
    region: Region
    has_fills: bool
    clock: int
    shown: int


class Sharded:
    """The DTensors of a plan that defers.

    Attributes:
        loans: what is lent, by the storage of the shard.
        group: the process group whose ranks share a drawn seed; None for the world.
    """

    def __init__(self, plan: Host) -> None:
        self._plan = plan
        self._owners: dict[str, Tensor] = {}  # by name
        self._homes: dict[str, int] = {}  # by name, the storage of the local part
        self._agreed: set[int] = set()  # ids of meshes
        self._meshes: list[Any] = []  # held, so that ids stay theirs
        self.loans: dict[int, Loan] = {}
        self.group: Any = None
        self._calls = 0  # that run, and have been given wholes
        self._orthogonal: set[int] = set()  # storages of shards that have been made orthogonal

    # --- regions and names ------------------------------------------------------------------------

    def named_memory(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return the local part of a DTensor for the recorder to name; None if it has no known
        place in the whole. It is named again where the DTensor gets another."""
        self.agree(tensor.device_mesh)  # type: ignore[attr-defined]
        self._owners[name] = tensor
        self._homes[name] = storage_key(local_tensor(tensor))
        try:
            region = local_region(tensor)
        except ValueError:  # which a fill of it raises
            return None
        self._register(region)
        return region.local

    def region(self, tensor: Tensor) -> Region:
        """Return the part that this rank holds, under its name.

        Raises:
            ValueError: a placement that is neither Shard nor Replicate; seeds that differ between
                ranks.
        """
        self.agree(tensor.device_mesh)  # type: ignore[attr-defined]
        region = local_region(tensor)
        self._register(region)
        key = storage_key(region.local)
        if not self._plan.pending.named(key):
            self._follow()
        return region

    def dtypes(self) -> dict[str, torch.dtype]:
        """Return the dtypes of the DTensors with a name."""
        return {name: owner.dtype for name, owner in self._owners.items()}

    def _register(self, region: Region) -> bool:
        """Tell the recorder of a part; return whether there are others in its storage."""
        return self._plan.pending.is_shard(region.local, region.first, tuple(region.shape))

    def _name_at(self, key: int) -> str:
        return next((name for name, home in self._homes.items() if home == key), "a DTensor")

    def _follow(self) -> None:
        """Name the local parts that DTensors have now."""
        pending = self._plan.pending
        for name, owner in list(self._owners.items()):
            if storage_key(local_tensor(owner)) != self._homes[name]:
                pending.unname(self._homes[name])
                if (memory := self.named_memory(name, owner)) is not None:
                    pending.add_name(name, memory, owner)

    def agree(self, mesh: Any) -> None:
        """Have the ranks of a mesh agree on the seed of the plan, once.

        A seed that was drawn becomes that of rank 0, for all ranks of the run, and what torch's own
        functions draw from then on comes from generators of the plan, as with a given one.

        Raises:
            ValueError: the seeds that were given differ between the ranks of the mesh.
        """
        if id(mesh) in self._agreed or not ranks.is_distributed():
            return
        plan = self._plan
        if plan.explicit_seed is not None:
            ranks.require_one_seed(plan.explicit_seed, mesh)
        elif not self._agreed:
            plan.seed = plan.pending.seed = ranks.shared_seed(plan.seed, mesh, self.group)
            plan.draws = Draws(plan.seed)
        self._agreed.add(id(mesh))
        self._meshes.append(mesh)

    # --- loans ------------------------------------------------------------------------------------

    def lent(self, tensor: Tensor) -> Tensor | None:
        """Return the whole that is in the place of a DTensor; None if it is in its place itself."""
        loan = self.loans.get(storage_key(local_tensor(tensor)))
        return None if loan is None else loan.whole

    def lend(self, tensor: Tensor) -> Tensor:
        """Return the whole of a DTensor in ordinary memory, which takes its place for a while.

        Raises:
            ValueError: its local part shares a storage with that of another DTensor; code has
                written to its local part while it was lent.
        """
        region = self.region(tensor)
        key = storage_key(region.local)
        mesh = tensor.device_mesh  # type: ignore[attr-defined]
        if is_replicated(tensor) and ranks.is_member(mesh):
            return region.local
        # Garbage in a cycle may keep a loan on one rank alone.
        is_out = key in self.loans
        states = [int(not is_out), int(self._register(region))]
        is_home_somewhere, is_shared = ranks.largest(states, mesh)
        if is_shared:
            raise ValueError(
                f"{self._name_at(key)}: its local part is a view of a buffer with those of other "
                "DTensors, which leaves fills of all of it (normal_, zeros_) and no code that "
                "computes; initialise the parameters before they get the buffer"
            )
        if is_out and not is_home_somewhere:
            self._require_unwritten(self.loans[key])
            return self.loans[key].whole
        if is_out:
            self._take_back(self.loans.pop(key))
        local = region.local
        pending = self._plan.pending
        whole = torch.empty(region.shape, dtype=local.dtype, device=local.device)
        with torch.no_grad():
            fills = self._fills_of_whole(region, whole)
            is_all = bool(fills and fills[0].tensor is whole)
            # What is known of memory may differ between ranks, what is sent may not.
            known = [fills is None, not is_all and not pending.has_no_values(local)]
            has_none, has_values = ranks.largest(list(map(int, known)), mesh)
            if has_none or fills is None:
                self._plan.flush([key])
                fills = []
            pending.lent(whole, local)
            pending.pop(key)  # before what is sent is read
            if has_none or has_values:
                whole.copy_(ranks.gathered(tensor))
            pending.put(storage_key(whole), fills)
        self.loans[key] = Loan(whole, region, bool(fills), pending.clock, pending.clock)
        return whole

    def show(self, storages: Iterable[int]) -> None:
        """Give shards whose wholes are on loan the values of these: code uses their memory.

        Raises:
            ValueError: code has written to the shard, too.
        """
        for key in self.loans.keys() & set(storages):
            loan = self.loans[key]
            self._require_unwritten(loan)
            if self._is_changed(loan):
                self._plan.flush([storage_key(loan.whole)])
                with torch.no_grad():
                    loan.region.local.copy_(part_of(loan.whole, loan.region))
            self.loans[key] = loan._replace(shown=self._plan.pending.clock)

    def require_unwritten(self) -> None:
        """Refuse writes to shards whose wholes are on loan.

        Raises:
            ValueError: code has written to such a shard.
        """
        for loan in self.loans.values():
            self._require_unwritten(loan)

    def _require_unwritten(self, loan: Loan) -> None:
        key = storage_key(loan.region.local)
        if self._plan.pending.written_at(key) > loan.shown:
            raise ValueError(
                f"{self._name_at(key)}: its local part was written while code holds a view of the "
                "whole, as w[0] is one of w, so that one of the two would be lost; write to the "
                "DTensor, or delete the view before"
            )

    def _is_changed(self, loan: Loan) -> bool:
        """Whether the whole may have other values than the shard had when it was lent."""
        pending, key = self._plan.pending, storage_key(loan.whole)
        return (
            loan.has_fills
            or bool(pending.of(key))
            or pending.written_at(key) > loan.clock
            or pending.is_escaped(key)
        )

    @contextmanager
    def lending(self) -> Iterator[None]:
        """Take no whole back in the block."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def require_first(self, tensor: Tensor) -> None:
        """Refuse to fill a shard again after `orthogonal_`.

        Of a whole tensor the first fill would give way without a draw. A shard's matrix is computed
        as a whole at once, so that it has been drawn.

        Raises:
            ValueError: the shard has been made orthogonal in this plan.
        """
        self._require_first(storage_key(local_tensor(tensor)))

    def _require_first(self, key: int) -> None:
        if key in self._orthogonal:
            raise ValueError(
                f"{self._name_at(key)}: filled again after orthogonal_, and sharded: it would have "
                "other values than the model that is not; initialise it once, or use "
                "build(fn, device='meta') and materialize(model)"
            )

    def settle(self, is_end: bool = False, keeps_casts: bool = False) -> None:
        """Take back what no code holds any more; at the end, all.

        A copy takes over the fills of its source once code has given that up: `keeps_casts` leaves
        it the time. A whole that runs through a call is held by it."""
        if self._calls and not is_end:
            return
        pending = self._plan.pending
        for key, loan in list(self.loans.items()):
            if keeps_casts and pending.cast_to(storage_key(loan.whole)) is not None:
                continue
            if is_end or pending.is_alone([loan.whole]):
                del self.loans[key]
                self._take_back(loan)

    def _fills_of_whole(self, region: Region, whole: Tensor) -> list[Fill] | None:
        """Return what waits for a shard as fills of the whole; None if that cannot be told."""
        found: list[Fill] = []
        key = storage_key(region.local)
        if self._plan.pending.awaiting(key):
            return None
        for record in self._plan.pending.of(key):
            if type(record) is not Fill:
                return None
            target = whole
            if record.part is not None:
                start, box = record.part
                target = whole.as_strided(
                    [size for size, _ in box], [step for _, step in box], start
                )
            elif record.tensor.shape != region.local.shape:
                return None
            found.append(record._replace(tensor=target, part=None))
        return found

    def _take_back(self, loan: Loan) -> None:
        plan, pending = self._plan, self._plan.pending
        key = storage_key(loan.whole)
        is_changed = self._is_changed(loan)
        if is_changed:
            self._require_unwritten(loan)
        waiting = pending.of(key)
        home = storage_key(loan.region.local)
        if any(type(record) is Fill and record.kind != CONSTANT for record in waiting):
            self._require_first(home)
        with torch.no_grad():
            fills = None if pending.awaiting(key) else self._fills_of_shard(loan, waiting)
        if fills is None:
            is_orthogonal = any(
                type(record) is Fill and not tails.is_pointwise(record.tail) for record in waiting
            )
            if is_orthogonal and home in self._homes.values():
                self._orthogonal.add(home)
            plan.flush([key])
            waiting, fills = [], []
        is_all_waiting = bool(waiting) and waiting[0].tensor.numel() == loan.whole.numel()
        pending.pop(key)
        if is_changed and not is_all_waiting:
            plan.overwrite(loan.region.local)
            with torch.no_grad():
                loan.region.local.copy_(part_of(loan.whole, loan.region))
        if is_changed:
            pending.returned(loan.whole, loan.region.local)
        pending.forget(key)
        for fill in fills:
            pending.add(fill)
        if fills and not pending.may_wait(loan.region.local):
            plan.flush([storage_key(loan.region.local)])

    def _fills_of_shard(self, loan: Loan, records: list[Any]) -> list[Fill] | None:
        """Return what waits for a whole as fills of the shard; None if that cannot be told."""
        found = []
        first, local = loan.region.first, loan.region.local
        for record in records:
            if type(record) is not Fill or not tails.is_pointwise(record.tail):
                return None
            place = boxes.box_in(record.tensor, loan.whole)
            if place is None:
                return None  # its bytes, as another dtype
            start, box = place
            if isinstance(box, int):  # the whole's own
                found.append(record._replace(tensor=local))
                continue
            if not self._plan.pending.named(storage_key(loan.whole)):
                return None  # a part of a tensor without a name is one of its own
            told: Taken = (start, tuple((size, step) for size, _, step in box))
            target = local
            if record.tensor.numel() < loan.whole.numel():  # else a view of all
                taken = boxes.ranges(*told, loan.whole.shape)
                if taken is None:
                    return None
                target = local[boxes.within(taken, first, local.shape)]
            found.append(record._replace(tensor=target, part=told))
        return found


def part_of(whole: Tensor, region: Region) -> Tensor:
    """Return the part of a whole that a shard holds."""
    return whole[
        tuple(slice(i, i + n) for i, n in zip(region.first, region.local.shape, strict=True))
    ]
