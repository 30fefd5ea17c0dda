"""Models without memory, whole or sharded, given memory and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit import fills, manifest
from fastinit.backends import is_native
from fastinit.cuda import Place, place_of
from fastinit.manifest import Manifest, Written
from fastinit.names import named_tensors, walk
from fastinit.sharding import Region, is_distributed, local_region

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Recipe:
    """How a model without memory comes by its values.

    Attributes:
        manifest: what its tensors are filled with.
        values: by name, what code computed for the others.
        seed: of the fills that brought none of their own.
        is_explicit: whether it was given, rather than drawn by this process alone.
    """

    manifest: Manifest
    values: dict[str, Tensor]
    seed: int
    is_explicit: bool

    def with_seed(self, seed: int) -> Recipe:
        """The same with another seed."""
        tensors = tuple(
            replace(
                tensor,
                fills=tuple(
                    replace(drawn, seed=seed) if drawn.seed == self.seed else drawn
                    for drawn in tensor.fills
                ),
            )
            for tensor in self.manifest.tensors
        )
        return Recipe(Manifest(tensors, self.manifest.unmatched), self.values, seed, True)

    def of(self, name: str) -> Written | Tensor | None:
        """What a tensor of this name or alias gets."""
        if name in self.values:
            return self.values[name]
        try:
            written = self.manifest.named(name)
        except KeyError:
            return None
        return written if written.status == "filled" else None


# On the module itself, so that copies of it have it too, as a pipeline makes them for its stages.
_RECIPE = "_fastinit_recipe"


def attach(model: nn.Module, recipe: Recipe) -> None:
    """Keep a recipe with the model that it is for."""
    vars(model)[_RECIPE] = recipe


def attached(model: nn.Module) -> Recipe | None:
    """The recipe of a model built on meta, or of the one that wrappers stand around.

    Raises:
        ValueError: a part of the model has one, under another name there.
    """
    found: Recipe | None = None
    for prefix, module in walk(model):
        if _RECIPE in vars(module):
            if prefix:
                raise ValueError(
                    f"materialize: {prefix[:-1]} was built on meta by itself; build the whole "
                    "model, or materialize that part first"
                )
            found = vars(module)[_RECIPE]
    return found


def _detach(model: nn.Module) -> None:
    for _, module in walk(model):
        vars(module).pop(_RECIPE, None)


def is_meta(tensor: Tensor) -> bool:
    """Whether the tensor has no memory."""
    return tensor.device.type == "meta"


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor, or parameter, of the same geometry and attributes without memory; a whole one for a
    DTensor."""
    data = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if not isinstance(tensor, nn.Parameter):
        return data
    parameter = nn.Parameter(data, tensor.requires_grad)
    vars(parameter).update(vars(tensor))
    return parameter


def materialize(
    model: Model,
    *,
    device: torch.device | str | int | None = None,
    seed: int | None = None,
    group: Any = None,
    strict: bool = True,
) -> Model:
    """Give memory and initial values to a model on the meta device; on each rank to its shards.

    The model was made by `build(..., device="meta")`, whose buffers and computed parameters come
    along, or by any code under `torch.device("meta")`: then its `init_weights` runs if it has one,
    else `reset_parameters` or `_reset_parameters` of every module that has it, for what they would
    write. It may have been sharded since (`fully_shard`, `parallelize_module`,
    `distribute_tensor`). Every shard has, bit for bit, the values of that part of the whole model,
    whatever the mesh. Tied parameters, and those that a parallel style has untied, have the same
    values. Tensors that have memory already are left alone.

    Args:
        model: changed in place, its parameters being the same objects.
        device: where memory is allocated; by default the current device of DTensors' meshes, else
            the CPU.
        seed: for all fills; by default that of `build`, or drawn. What code has computed for the
            model keeps its values.
        group: process group whose ranks agree on a seed, if none was given (default: the world).
        strict: a parameter or buffer without memory, and without a rule, is an error.

    Returns:
        `model`.

    Raises:
        ValueError: parameters or buffers that nothing writes, a seed outside [0, 2^64), a placement
            that is neither Shard nor Replicate; a part that was built on meta by itself. Nothing
            was allocated.
        RuntimeError: on the torch backend.

    Examples:
        >>> model = fastinit.build(lambda: Transformer(config), device="meta", seed=0)
        >>> for block in model.blocks:
        ...     fully_shard(block)
        >>> fastinit.materialize(fully_shard(model), device="cuda")
    """
    if seed is not None and not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
    from fastinit.dryrun import recipe_of

    if not is_native():
        raise RuntimeError("materialize needs the native backend; torch's fills as it goes")
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
    for _, tensor in named:
        local_region(tensor)  # raises what there is to raise
    target = torch.device(device) if device is not None else _default_device(named)
    recipe = _seeded(recipe, seed, group, [tensor for _, tensor in named], target)
    names = [name for name, _ in named]
    _allocate(model, target)
    tensors = dict(named_tensors(walk(model)))
    _fill(recipe, {name: local_region(tensors[name]) for name in names})
    _detach(model)
    return model


def _seeded(
    recipe: Recipe, seed: int | None, group: Any, tensors: list[Tensor], device: torch.device
) -> Recipe:
    """With the given seed; else, if it was drawn and there are shards, with one that all ranks
    have."""
    if seed is None and not recipe.is_explicit and any(map(is_distributed, tensors)):
        seed = agreed_seed(recipe.seed, group, device)
        for value in recipe.values.values():  # each rank's code has computed its own
            shared = value.to(device).contiguous()
            torch.distributed.broadcast(shared, group=group, group_src=0)
            value.copy_(shared)
    return recipe if seed is None else recipe.with_seed(seed)


def initialise_shards(model: nn.Module, initialise: Callable[[], object]) -> None:
    """Run `initialise` for what it would write to a model with DTensors: each rank fills its
    shards."""
    from fastinit.dryrun import recipe_of

    named = list(named_tensors(walk(model)))
    regions = {name: local_region(tensor) for name, tensor in named}
    recipe = recipe_of(model, None, initialise)
    device = next(region.local.device for region in regions.values())
    recipe = _seeded(recipe, None, None, [tensor for _, tensor in named], device)
    _fill(recipe, {name: regions[name] for name, _ in named if recipe.of(name) is not None})


def _default_device(named: list[tuple[str, Tensor]]) -> torch.device:
    for _, tensor in named:
        if is_distributed(tensor):
            kind = tensor.device_mesh.device_type  # type: ignore[attr-defined]
            here = ("cuda", torch.cuda.current_device()) if kind == "cuda" else (kind,)
            return torch.device(*here)
    return torch.device("cpu")


def agreed_seed(seed: int, group: Any, device: torch.device) -> int:
    """The seed of the group's first rank."""
    words = torch.tensor([seed & 0xFFFFFFFF, seed >> 32], device=device)
    torch.distributed.broadcast(words, group=group, group_src=0)
    low, high = words.tolist()
    return int(low | high << 32)


@contextmanager
def _swapping() -> Iterator[None]:
    """Let `Module._apply` keep parameters the objects they are, and so tied, across devices."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _allocate(model: nn.Module, device: torch.device) -> None:
    # `_apply`, because that is where FSDP learns of its shards' new memory.
    def allocated(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device) if is_meta(tensor) else tensor

    attributes = {id(p): (p, dict(vars(p))) for p in model.parameters() if not is_lazy(p)}
    with _swapping(), torch.no_grad():
        model._apply(allocated)  # type: ignore[no-untyped-call]
    for parameter, kept in attributes.values():  # which the swap has exchanged as well
        vars(parameter).update(kept)


def _fill(recipe: Recipe, regions: dict[str, Region]) -> None:
    """Write all regions, in as few calls as the overlaps of their rows allow."""
    tables: dict[Place | None, list[list[tuple[Any, ...]]]] = {}
    done: set[tuple[int, torch.Size]] = set()
    for name, (local, first, _) in regions.items():
        source = recipe.of(name)
        key = (local.data_ptr(), local.shape)
        if source is None or local.numel() == 0 or key in done:
            continue
        done.add(key)
        fills.mark_written(local)
        if isinstance(source, Tensor):
            block = tuple(slice(i, i + n) for i, n in zip(first, local.shape, strict=True))
            local.copy_(source[block])
        else:
            own = list(manifest.rows(local, source, first))
            tables.setdefault(place_of(local), []).append(own)
    for place, per_tensor in tables.items():
        for wave in zip_longest(*per_tensor):
            fills.execute(place, [row for row in wave if row is not None])
