"""`materialize`: memory and values for models on the meta device, whole or sharded."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.kernels.cuda import Place, place_of
from fastinit.kernels.distributions import can_round
from fastinit.kernels.native import is_native
from fastinit.kernels.supported import mark_written
from fastinit.manifest.manifest import Written
from fastinit.manifest.regenerate import Step, execute, steps
from fastinit.models.dryrun import recipe_of, undone_on_error
from fastinit.models.recipe import Recipe, attached, detach
from fastinit.plan import seeds
from fastinit.plan.current import current
from fastinit.tensors.meta import attributes, is_meta
from fastinit.tensors.shards import Region, is_dtensor, local_region
from fastinit.tensors.storage import sharing
from fastinit.tensors.walk import named_tensors, walk

Model = TypeVar("Model", bound=nn.Module)


def materialize(
    model: Model,
    *,
    device: torch.device | str | int | None = None,
    seed: int | None = None,
    group: Any = None,
    strict: bool = True,
) -> Model:
    """Give a model on the meta device memory and initial values; on each rank, to its shards.

    The model comes from `build(..., device="meta")`, which kept the values that code computed, or
    from any code under `torch.device("meta")`: then a dry run of its `init_weights`, or, if it has
    none, of `reset_parameters` or `_reset_parameters` of every module that has it, tells what they
    would write. The model may have been sharded since (`fully_shard`, `parallelize_module`,
    `distribute_tensor`). Whatever the mesh, a shard has, bit for bit, the values of that part of
    the whole model. Tied parameters have the same values, also those that a parallel style has
    untied. Tensors that already have memory are left alone.

    Args:
        model: changed in place; its parameters remain the same objects.
        device: where memory is allocated; by default the current device of the DTensors' mesh, or
            the CPU.
        seed: integer in [0, 2^64), for every fill that brought no `generator=`; by default that of
            `build`, or drawn. Values that code computed stay as they are.
        group: process group whose ranks agree on a drawn seed; by default the world. All of its
            ranks must make the call. Give a seed to pipelines, whose stages differ.
        strict: raise for a parameter or buffer on meta whose values are not known. If False, it
            gets memory with undefined contents.

    Returns:
        `model`.

    Raises:
        ValueError: parameters or buffers that nothing writes, or that the model's initialisation
            replaces by others; a seed outside [0, 2^64); a placement other than Shard and
            Replicate; a dtype that the recorded values cannot be rounded to; a parameter that a
            weak reference points to; parameters that share memory without being one object; a part
            that was built on meta by itself; `fan_groups` that do not fit. Nothing was allocated,
            the model is as it was.
        TypeError: a seed that is no integer.
        RuntimeError: the torch backend is in use, or the call is inside an `init_weights`.

    Examples:
        >>> model = fastinit.build(lambda: Transformer(config), device="meta", seed=0)
        >>> for block in model.blocks:
        ...     fully_shard(block)
        >>> fastinit.materialize(fully_shard(model), device="cuda")
    """
    seed = seeds.checked(seed)
    if not is_native():
        raise RuntimeError(
            "materialize needs the native backend; without it, model.to_empty(device=...) and the "
            "model's own initialisation do the same"
        )
    if (plan := current()) is not None and plan.account is None:
        raise RuntimeError("materialize inside an init_weights: materialize the model first")
    with undone_on_error(model):
        return _materialized(model, device, seed, group, strict)


def _materialized(
    model: Model,
    device: torch.device | str | int | None,
    seed: int | None,
    group: Any,
    strict: bool,
) -> Model:
    recipe = attached(model) or recipe_of(model, seed)
    named = [
        (name, tensor)
        for name, tensor in named_tensors(walk(model))
        if not is_lazy(tensor) and is_meta(tensor)
    ]
    missing = [
        f"{name} {tuple(t.shape)}" for name, t in named if t.numel() > 0 and recipe.of(name) is None
    ]
    if missing and strict:
        raise ValueError(
            f"nothing writes {', '.join(missing)}, or what does is not a fill but computes"
        )
    for name, tensor in named:
        _require_fillable(name, tensor, recipe)
    if shared := sharing(named):
        raise ValueError(
            f"materialize: {' and '.join(shared)} share memory, which would be lost; build the "
            "model on its device"
        )
    target = torch.device(device) if device is not None else _default_device(named)
    recipe = _seeded(recipe, seed, group, named)
    names = [name for name, _ in named]
    _allocate(model, target)
    tensors = dict(named_tensors(walk(model)))
    _fill(recipe, {name: local_region(tensors[name]) for name in names})
    detach(model)
    return model


def _require_fillable(name: str, tensor: Tensor, recipe: Recipe) -> None:
    """Raise for a tensor that cannot be filled, before anything is allocated."""
    local_region(tensor)
    source = recipe.of(name)
    if isinstance(source, Written):
        built = getattr(torch, source.dtype)
        has_tail = any(drawn.tail for drawn in source.fills)
        if not can_round(built, tensor.dtype) or (has_tail and built != tensor.dtype):
            raise ValueError(
                f"materialize: {name} was built as {source.dtype} and is {tensor.dtype} now; give "
                "that dtype to build, or cast after materialize"
            )
    if isinstance(tensor, nn.Parameter) and weakref.getweakrefs(tensor):
        raise ValueError(
            f"materialize: {name} cannot be given memory while something holds a weak reference to "
            "it; make that after materialize"
        )


def _seeded(
    recipe: Recipe, seed: int | None, group: Any, named: list[tuple[str, Tensor]]
) -> Recipe:
    """Return the recipe with the given seed; or, if its own was drawn and there are shards, with a
    seed that all ranks share."""
    has_dtensors = any(is_dtensor(tensor) for _, tensor in named)
    if seed is None and not recipe.is_explicit and has_dtensors:
        # Each rank computed values of its own: all take rank 0's, for the names that they share.
        shared: list[Any] = [recipe.seed, recipe.values]
        device = _default_device(named)
        torch.distributed.broadcast_object_list(shared, group=group, group_src=0, device=device)
        seed, values = shared
        recipe.values.update({name: values[name] for name in recipe.values.keys() & values.keys()})
    return recipe if seed is None else recipe.with_seed(seed)


def initialise_shards(model: nn.Module, initialise: Callable[[], object]) -> None:
    """Fill this rank's shards of a model with DTensors by what a dry run of `initialise` would
    write."""
    named = list(named_tensors(walk(model)))
    regions = {name: local_region(tensor) for name, tensor in named}
    recipe = recipe_of(model, None, initialise)
    recipe = _seeded(recipe, None, None, named)
    _fill(recipe, {name: regions[name] for name, _ in named if recipe.of(name) is not None})


def _default_device(named: list[tuple[str, Tensor]]) -> torch.device:
    for _, tensor in named:
        if is_dtensor(tensor):
            kind = tensor.device_mesh.device_type  # type: ignore[attr-defined]
            here = ("cuda", torch.cuda.current_device()) if kind == "cuda" else (kind,)
            return torch.device(*here)
    return torch.device("cpu")


@contextmanager
def _swapping() -> Iterator[None]:
    """Let `Module._apply` keep the parameter objects, and so their ties, across devices."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _allocate(model: nn.Module, device: torch.device) -> None:
    # `_apply`, because FSDP learns there of its shards' new memory.
    def allocated(tensor: Tensor) -> Tensor:
        if not is_meta(tensor):
            return tensor
        new = torch.empty_like(tensor, device=device)
        if not isinstance(tensor, nn.Parameter):  # the swap keeps parameter objects
            attributes(tensor)(new)
        return new

    before = [(p, type(p), attributes(p)) for p in model.parameters() if not is_lazy(p)]
    with _swapping(), torch.no_grad():
        model._apply(allocated)  # type: ignore[no-untyped-call]
    for parameter, kind, hang in before:  # the swap has exchanged these too
        parameter.__class__ = kind
        hang(parameter)


def _fill(recipe: Recipe, regions: dict[str, Region]) -> None:
    """Write all regions, in as few table calls as overlapping rows allow."""
    tables: dict[Place | None, list[list[Step]]] = {}
    done: set[tuple[int, torch.Size]] = set()
    for name, (local, first, _) in regions.items():
        source = recipe.of(name)
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
