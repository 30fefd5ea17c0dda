"""`materialize`: memory and values for models on the meta device, whole or sharded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.capture.fused import fused
from fastinit.kernels.cuda import Place, place_of
from fastinit.kernels.distributions import can_round
from fastinit.kernels.native import is_native
from fastinit.kernels.supported import mark_written
from fastinit.manifest.manifest import Written
from fastinit.manifest.regenerate import Step, execute, steps
from fastinit.models.checks import checked_device, listed, require_module
from fastinit.models.memory import (
    Named,
    allocate,
    default_device,
    kept_in_place,
    require_allocatable,
    undone_on_error,
)
from fastinit.models.recipe import Recipe, Sources, attached, detach
from fastinit.models.replay import Replay
from fastinit.plan import seeds
from fastinit.plan.current import current
from fastinit.plan.naming import name_again, unwritten
from fastinit.plan.roots import warn_of_repetition
from fastinit.tensors.meta import is_meta
from fastinit.tensors.shards import Region, is_dtensor, local_region, require_loaded
from fastinit.tensors.walk import named_tensors, walk
from fastinit.warning import NotInitializedWarning, ReproducibilityWarning, UnusedRuleWarning

Model = TypeVar("Model", bound=nn.Module)


def materialize(
    model: Model,
    *,
    device: torch.device | str | int | None = None,
    seed: int | None = None,
    group: Any = None,
    strict: bool = True,
    prefix: str = "",
    init: Callable[[Any], object] | None = None,
) -> Model:
    """Give a model on the meta device memory and initial values; on each rank, to its shards.

    The model comes from `build(..., device="meta")`, which kept the values that code computed, or
    from any code under `torch.device("meta")`. Of the latter the initialisation is replayed, in
    memory: every module's `reset_parameters` or `_reset_parameters`, children first, as their
    construction did, and then the root's `init_weights` over them, if it has one. What else a
    constructor wrote is lost; as far as torch counts writes, that is an error. (To count, the code
    runs once more, on meta, and leaves no trace in the modules' attributes.) The model may have
    been sharded since (`fully_shard`, `parallelize_module`, `distribute_tensor`). Whatever the
    mesh, a shard has, bit for bit, the values of that part of the whole model. Tied parameters have
    the values of the first name, also those that a parallel style has untied. Parameters that
    already have memory are left alone.

    Args:
        model: changed in place; its parameters remain the same objects.
        device: where memory is allocated; by default the current device of the DTensors' mesh, or
            the CPU.
        seed: integer in [0, 2^64), for every fill that brought no `generator=`; by default that of
            `build`, or drawn. Values that code computed in `build` stay as they are, with a
            UserWarning if they are parameters and the seed is another.
        group: process group whose ranks agree on a drawn seed; by default the world. All of its
            ranks must make the call. Give a seed to pipelines, whose stages differ.
        strict: raise for a tensor whose values are not known: nothing writes it, or its constructor
            wrote more than a replay does. If False, that is a UserWarning, and what nothing writes
            gets memory with undefined contents.
        prefix: stands before every name of a replay, see `fused`; for `build`, give it there.
        init: is called with the model in the place of its `init_weights`, under `torch.no_grad()`:
            `lambda m: m.init_weights(buffer_device="cpu")`.

    Returns:
        `model`.

    Raises:
        ValueError: with `strict`, what it names; a device without memory; a seed outside [0, 2^64),
            or different from that of other ranks; a placement other than Shard and Replicate; a
            shape or dtype that recorded values do not fit; a lazy or scripted module; a
            parameter that a weak reference points to; parameters that share memory without being
            one object; a part that was built on meta by itself; `fan_groups` that do not fit; a
            model that accelerate has offloaded.
        TypeError: `model` is no module; a seed that is no integer; an `init_weights` that takes
            arguments.
        RuntimeError: the torch backend is in use, or the call is inside an `init_weights`.
        Exception: what the model's code raises. However it fails, the model is as it was.

    Examples:
        >>> model = fastinit.build(lambda: Transformer(config), device="meta", seed=0)
        >>> for block in model.blocks:
        ...     fully_shard(block)
        >>> fastinit.materialize(fully_shard(model), device="cuda")
    """
    require_module(model)
    seed = seeds.checked(seed)
    target = checked_device(device, "materialize", may_be_meta=False)
    plan = current()
    if not is_native() or (plan is not None and plan.recorder is None):
        raise RuntimeError(
            "materialize needs the native backend; without it, model.to_empty(device=...) and the "
            "model's own initialisation do the same"
        )
    if plan is not None and plan.account is None:
        raise RuntimeError("materialize inside an init_weights: materialize the model first")
    require_loaded(walk(model))
    bare = _bare(model)
    if not bare:
        if attached(model) is not None:
            raise ValueError(
                f"materialize: {type(model).__name__} was built on meta, and was given memory "
                "since. By to_empty that holds no values: call materialize in its place; by "
                "load_state_dict(assign=True) it is complete, and there is nothing to do"
            )
        if seed is not None or init is not None:
            warnings.warn(
                f"materialize: no tensor of {type(model).__name__} is on meta, so nothing was done;"
                " to initialise it again, run its own code in fused(seed=..., root=model)",
                NotInitializedWarning,
                stacklevel=2,
            )
        return model
    sources = attached(model) if init is None else None
    if sources is not None and prefix:
        raise ValueError(
            f"materialize: {type(model).__name__} was built on meta, with its names; give "
            f"prefix={prefix!r} to build"
        )
    warn_of_repetition("materialize", model, seed, prefix)
    require_allocatable(model, bare)
    target = target or default_device(bare)
    with undone_on_error(model):
        if sources is not None:
            _by_recipe(model, sources, bare, target, seed, group, strict)
        else:
            _by_replay(model, Replay(model, init), bare, target, seed, group, strict, prefix)
        detach(model)
    return model


def _bare(model: nn.Module) -> Named:
    """Return the tensors on meta.

    Raises:
        ValueError: some have no shape yet.
    """
    named = list(named_tensors(walk(model)))
    lazy = [name for name, tensor in named if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"materialize: {listed(lazy)} are lazy, and have no shape; run a forward pass with "
            "memory, or give the layers their sizes"
        )
    return [(name, tensor) for name, tensor in named if is_meta(tensor)]


def _by_recipe(
    model: nn.Module,
    sources: Sources,
    bare: Named,
    device: torch.device,
    seed: int | None,
    group: Any,
    strict: bool,
) -> None:
    missing = [
        f"{name} {tuple(t.shape)}" for name, t in bare if t.numel() > 0 and sources.of(name) is None
    ]
    _refuse(
        missing
        and f"nothing wrote {listed(missing)} while the model was built; initialise them there",
        strict,
    )
    for name, tensor in bare:
        _require_fitting(name, tensor, sources.of(name))
    if seed not in (None, sources.recipe.seed):
        _warn_of_computed(
            [
                n
                for n, p in bare
                if isinstance(p, nn.Parameter) and isinstance(sources.of(n), Tensor)
            ]
        )
    recipe = _seeded(sources.recipe, seed, group, bare)
    names = [name for name, _ in bare]
    allocate(model, device)
    tensors = dict(named_tensors(walk(model)))
    _fill(Sources(recipe, sources.names), {name: local_region(tensors[name]) for name in names})


def _by_replay(
    model: nn.Module,
    replay: Replay,
    bare: Named,
    device: torch.device,
    seed: int | None,
    group: Any,
    strict: bool,
    prefix: str,
) -> None:
    _compare_writes(model, replay, bare, strict)
    names = [name for name, _ in bare]
    allocate(model, device)
    with fused(seed, prefix=prefix) as plan, kept_in_place(model, set(names)):
        plan.sharded.group = group
        plan.add_root(model)
        tensors = dict(named_tensors(walk(model)))
        for name in names:
            plan.pending.allocated(local_region(tensors[name]).local)
        replay.run()
        name_again(plan)
        missing = [
            f"{name} {tuple(tensor.shape)}"
            for name, tensor in unwritten(plan, model)
            if name in names
        ]
        try:
            _refuse(
                missing
                and f"nothing writes {listed(missing)}, neither init_weights nor "
                "reset_parameters; make the model by build(fn, device='meta'), which keeps what "
                "its constructor writes",
                strict,
            )
        except ValueError:
            plan.abandon()
            raise


def _compare_writes(model: nn.Module, replay: Replay, bare: Named, strict: bool) -> None:
    """Compare what the constructor wrote with what a replay writes."""
    name = type(model).__name__
    try:
        lost = replay.lost()
    except Exception as error:
        warnings.warn(
            f"materialize: whether the constructor of {name} wrote more than a replay does cannot "
            f"be told, because its code does not run on meta ({type(error).__name__}: {error}); "
            "build(fn, device='meta') keeps what it wrote",
            ReproducibilityWarning,
            stacklevel=4,
        )
        return
    is_sharded = any(is_dtensor(tensor) for _, tensor in bare)
    if (is_sharded or not lost.is_told) and not replay.has_own:
        warnings.warn(
            f"materialize: {name} has no init_weights, and was sharded, moved to meta or copied "
            "before: whether its constructor wrote more than reset_parameters does cannot be told; "
            "build(fn, device='meta') at first keeps what it wrote",
            ReproducibilityWarning,
            stacklevel=4,
        )
    keeps = "make the model by build(fn, device='meta'), which keeps what its constructor writes"
    _refuse(
        lost.written
        and f"the constructor of {name} wrote {listed(lost.written)} in ways of its own, which a "
        f"replay of init_weights or reset_parameters does not know; {keeps}",
        strict,
        stacklevel=5,
    )
    _refuse(
        lost.called
        and f"the constructor of {listed(lost.called)} gives arguments to init_weights or "
        f"reset_parameters, which a replay does not know; {keeps}; or pass init=",
        strict,
        stacklevel=5,
    )
    _refuse(
        lost.tied
        and f"{listed(lost.tied)}: tied, and which layer initialised it cannot be told; {keeps}",
        strict,
        stacklevel=5,
    )
    _refuse(
        lost.unseen
        and f"the constructor of {listed(lost.unseen)} seems to write by .data, which torch does "
        "not count, or by what returns at once on meta (trunc_normal_, orthogonal_, sparse_, "
        f"dirac_), so that a replay may miss it; {keeps}",
        strict,
        stacklevel=5,
    )
    _refuse(
        lost.fresh
        and f"{listed(lost.fresh)} have memory, though the model was made on meta, and nothing has "
        f"written it, as far as torch counts; {keeps}",
        strict,
        stacklevel=5,
    )


def _refuse(reason: Any, strict: bool, stacklevel: int = 4) -> None:
    """Raise, or warn, if there is a reason."""
    if not reason:
        return
    if strict:
        raise ValueError(f"materialize: {reason}, or pass strict=False")
    warnings.warn(f"materialize: {reason}", ReproducibilityWarning, stacklevel=stacklevel)


def _warn_of_computed(names: list[str]) -> None:
    if names:
        warnings.warn(
            f"materialize: another seed than that of build has no effect on {listed(names)}, which "
            "code computed there; give the seed to build",
            UnusedRuleWarning,
            stacklevel=4,
        )


def _require_fitting(name: str, tensor: Tensor, source: Written | Tensor | None) -> None:
    if source is not None and tuple(source.shape) != tuple(tensor.shape):
        raise ValueError(
            f"materialize: {name} was built with shape {tuple(source.shape)} and has "
            f"{tuple(tensor.shape)} now; make it so in fn"
        )
    if not isinstance(source, Written):
        return
    built = getattr(torch, source.dtype)
    has_tail = any(drawn.tail for drawn in source.fills)
    if not can_round(built, tensor.dtype) or (has_tail and built != tensor.dtype):
        raise ValueError(
            f"materialize: {name} was built as {source.dtype} and is {tensor.dtype} now; give "
            "that dtype to build, or cast after materialize"
        )


def _seeded(recipe: Recipe, seed: int | None, group: Any, named: Named) -> Recipe:
    """Return the recipe with the given seed; or, if its own was drawn and there are shards, with a
    seed that all ranks share."""
    has_dtensors = any(is_dtensor(tensor) for _, tensor in named)
    if seed is None and not recipe.is_explicit and has_dtensors:
        # Each rank computed values of its own: all take rank 0's, for the names that they share.
        shared: list[Any] = [recipe.seed, recipe.values]
        device = default_device(named)
        torch.distributed.broadcast_object_list(shared, group=group, group_src=0, device=device)
        seed, values = shared
        recipe.values.update({name: values[name] for name in recipe.values.keys() & values.keys()})
    return recipe if seed is None else recipe.with_seed(seed)


def _fill(sources: Sources, regions: dict[str, Region]) -> None:
    """Write all regions, in as few table calls as overlapping rows allow."""
    tables: dict[Place | None, list[list[Step]]] = {}
    done: set[tuple[int, torch.Size]] = set()
    for name, (local, first, _) in regions.items():
        source = sources.of(name)
        key = (local.data_ptr(), local.shape)
        if source is None or local.numel() == 0 or key in done:
            continue
        done.add(key)
        mark_written(local)
        if isinstance(source, Tensor):
            block = tuple(slice(i, i + n) for i, n in zip(first, local.shape, strict=True))
            local.copy_(source[block])
        else:
            own = list(steps(local, source, first))
            tables.setdefault(place_of(local), []).append(own)
    for place, per_tensor in tables.items():
        for wave in zip_longest(*per_tensor):
            execute(place, [step for step in wave if step is not None])
