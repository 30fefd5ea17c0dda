"""The dry run of a model's own initialisation: what it would write, without writing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fastinit.capture.mode import capturing
from fastinit.kernels.cuda import Place
from fastinit.kernels.distributions import CONSTANT
from fastinit.kernels.supported import is_supported
from fastinit.kernels.table import Row
from fastinit.models.recipe import Recipe
from fastinit.plan.account import Account
from fastinit.plan.executor import KernelExecutor
from fastinit.plan.plan import Copies, Plan
from fastinit.tensors.meta import is_meta, on_meta
from fastinit.tensors.storage import covers_storage, storage_key
from fastinit.tensors.walk import exchange, named_tensors, walk


class DryExecutor:
    """An executor that also takes tensors on meta, and writes nothing to them; see `plan.parts`."""

    is_dry = True

    def __init__(self) -> None:
        self._kernels = KernelExecutor()  # for temporaries that have memory

    def serves(self, tensor: Tensor) -> bool:
        return is_supported(tensor, on_meta=True)

    def value_of(self, tensor: Tensor, kind: int, parameters: Sequence[float]) -> Tensor | None:
        # For dtypes without kernels, such as BatchNorm's integer count of batches.
        if not (is_meta(tensor) and kind == CONSTANT and covers_storage(tensor)):
            return None
        return torch.full(tensor.shape, parameters[0], dtype=tensor.dtype, device="cpu")

    def launch(self, place: Place, rows: Sequence[Row]) -> None:
        self._kernels.launch(place, rows)

    def copy(self, target: Tensor, source: Tensor) -> None:
        if not is_meta(target):
            self._kernels.copy(target, source)


def recipe_of(
    model: nn.Module, seed: int | None, initialise: Callable[[], object] | None = None
) -> Recipe:
    """Return the recipe of what a model's own code would write to its parameters and buffers.

    The code is `initialise`; by default the root's `init_weights` if it has one, else
    `reset_parameters` or `_reset_parameters` of every module that has it, children first.
    """
    account = Account()
    plan = Plan(deferring=True, seed=seed, account=account, executor=DryExecutor())
    plan.copies = Copies.SNAPSHOT
    with _stand_ins(model) as ties:
        plan.add_root(model)
        for _, tensor in named_tensors(walk(model)):
            if is_meta(tensor):
                plan.pending.allocated(tensor)
        with capturing(plan):
            (initialise or partial(_initialise, model))()
        plan.finish()
        manifest = plan.manifest()
        values = {
            name: account.values[storage_key(tensor)]
            for name, tensor in named_tensors(walk(model))
            if storage_key(tensor) in account.values
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
    """Put whole tensors on meta in the place of all parameters, and of buffers on meta.

    Yields:
        A dictionary, filled at the end: from names that the code has tied, to the names they are
        tied to.

    Raises:
        ValueError: at the end, if the code has put tensors that are not known in their place.
    """
    by_id: dict[int, tuple[Tensor, Tensor]] = {}  # (stand-in, original) by the stand-in's id

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
    """Restore the attributes of all modules if the block raises."""
    before = [(module, dict(vars(module))) for _, module in walk(model)]
    try:
        yield
    except BaseException:
        for module, own in before:
            vars(module).clear()
            vars(module).update(own)
        raise
