"""A model's own initialisation code, run for what it would write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.capture.mode import Capture
from fastinit.kernels import fills
from fastinit.kernels.fills import Copy, Fill, Record
from fastinit.models.recipe import Recipe, is_meta, on_meta
from fastinit.plan import plan as plans
from fastinit.plan import seeds
from fastinit.plan.fusion import FusedPlan
from fastinit.plan.plan import covers_storage
from fastinit.tensors.names import exchange, named_tensors, storage_key, walk


class DryPlan(FusedPlan):
    """A plan that also takes tensors without memory, and writes nothing to them."""

    def __init__(self, seed: int | None) -> None:
        super().__init__(deferring=True, seed=seed)
        self.deferring_copies = True
        self.values: dict[int, Tensor] = {}  # by storage, what was copied to meta tensors

    def serves(self, tensor: Tensor) -> bool:
        return fills.serves(tensor, on_meta=True)

    def keeps(self, tensor: Tensor, kind: int, parameters: tuple[Any, ...]) -> bool:
        # Such as the integer that counts the batches of a BatchNorm.
        if not (is_meta(tensor) and kind == fills.CONSTANT and covers_storage(tensor)):
            return False
        value = torch.full(tensor.shape, parameters[0], dtype=tensor.dtype, device="cpu")
        self.computed(tensor)
        self.values[storage_key(tensor)] = value
        return True

    def computed(self, tensor: Tensor) -> None:
        self.values.pop(storage_key(tensor), None)  # what was copied there is not all any more
        super().computed(tensor)

    def record(self, fill: Record) -> None:
        if type(fill) is Copy:
            self.overwrite(fill.tensor)  # as a copy that is not recorded does
            fill = fill._replace(source=fill.source.detach().clone())  # the code may change it
        super().record(fill)

    def flush(self, storages: Iterable[int]) -> None:
        real = []
        for storage in storages:
            pending = self._pending.get(storage, [])
            if not any(is_meta(fill.tensor) for fill in pending):
                real.append(storage)
                continue
            del self._pending[storage]
            for fill in pending:
                self.values.pop(storage, None)  # what comes later is not known to leave it
                if type(fill) is Fill:
                    self._ledger.draw(storage, fill, self.seed_of(fill))
                elif type(fill) is Copy:
                    self.computed(fill.tensor)
                    if not is_meta(fill.source) and covers_storage(fill.tensor):
                        self.values[storage] = fill.source
        super().flush(real)


def recipe_of(
    model: nn.Module, seed: int | None, initialise: Callable[[], object] | None = None
) -> Recipe:
    """What a model's own code would write into its parameters and buffers, whole.

    That is `initialise`, or the root's `init_weights` if it has one, else `reset_parameters` or
    `_reset_parameters` of every module that has it, children first.
    """
    plan = DryPlan(seed)
    governed = nullcontext() if seed is None else seeds.governing_torch(seed)
    with _stand_ins(model) as ties, governed:
        plan.add_root(model)
        for _, tensor in named_tensors(walk(model)):
            if is_meta(tensor):
                plan.allocated(tensor)
        with plans.active(plan), Capture(plan):
            (initialise or partial(_initialise, model))()
        plan.finish()
        manifest = plan.manifest()
        values = {
            name: plan.values[storage_key(tensor)]
            for name, tensor in named_tensors(walk(model))
            if storage_key(tensor) in plan.values
        }
    return Recipe(manifest, values, plan.seed, seed is not None, ties)


def _initialise(model: nn.Module) -> None:
    if callable(getattr(model, "init_weights", None)):
        model.init_weights()  # type: ignore[operator]
        return
    for _, module in reversed(walk(model)):
        for name in ("reset_parameters", "_reset_parameters"):
            if callable(getattr(module, name, None)):
                getattr(module, name)()
                break


@contextmanager
def _stand_ins(model: nn.Module) -> Iterator[dict[str, str]]:
    """Whole tensors without memory in place of all parameters, and of buffers without memory.

    Yields:
        A dictionary that has, at the end, the names that the code has tied to others.

    Raises:
        ValueError: at the end, the code has put tensors in their places that are not known.
    """
    by_id: dict[int, tuple[Tensor, Tensor]] = {}  # a stand-in, and for whom

    def stand_in(tensor: Tensor) -> Tensor:
        needs_one = isinstance(tensor, nn.Parameter) or is_meta(tensor)
        new = on_meta(tensor) if needs_one else tensor
        by_id[id(new)] = new, tensor
        return new

    originals = exchange(walk(model), stand_in)
    ties: dict[str, str] = {}
    try:
        yield ties
        left = [group.get(key) for _, group, key, _ in originals]
    finally:
        for _, group, key, tensor in originals:
            group[key] = tensor
    names = {id(tensor): name for name, _, _, tensor in reversed(originals)}
    foreign = []
    for (name, group, key, tensor), now in zip(originals, left, strict=True):
        if now is None:
            continue
        new, old = by_id.get(id(now), (now, None))
        if old is None or (new.dtype, new.shape) != (old.dtype, old.shape):
            foreign.append(name)
        elif old is not tensor:
            group[key] = old
            ties[name] = names[id(old)]
    if foreign:
        raise ValueError(
            "materialize: the model's initialisation puts other tensors, or ones of another dtype, "
            f"in the place of {', '.join(foreign)}; only fastinit.build can follow that"
        )


@contextmanager
def undone_on_error(model: nn.Module) -> Iterator[None]:
    """Give modules back the attributes that they had, where the block raises."""
    before = [(module, dict(vars(module))) for _, module in walk(model)]
    try:
        yield
    except BaseException:
        for module, own in before:
            vars(module).clear()
            vars(module).update(own)
        raise
