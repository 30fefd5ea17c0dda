"""`build`: a whole model, made by any code, filled at once on its device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.capture.fused import fused
from fastinit.models.checks import checked_device, checked_dtype, listed, require_function
from fastinit.models.memory import release, require_no_computed
from fastinit.models.recipe import Recipe, attach
from fastinit.models.replay import init_weights_of, is_unrun
from fastinit.plan.carry import drop, moved
from fastinit.plan.current import suspended
from fastinit.plan.fan_groups import early_without_groups
from fastinit.plan.naming import manifest_of_model, name_again, unwritten
from fastinit.plan.plan import Plan
from fastinit.plan.roots import warn_of_repetition
from fastinit.tensors.meta import is_meta
from fastinit.tensors.storage import sharing, storage_key, tensor_over
from fastinit.tensors.torch_private import unwatched
from fastinit.tensors.walk import exchange, named_tensors, walk
from fastinit.warning import NotInitializedWarning, ReproducibilityWarning

Model = TypeVar("Model", bound=nn.Module)


def build(
    fn: Callable[[], Model],
    *,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    seed: int | None = None,
    strict: bool = True,
    init_weights: bool | None = None,
    prefix: str = "",
    manifest: str | PathLike[str] | None = None,
) -> Model:
    """Build a model by its own code, and fill it at once on its device.

    `fn` runs under `fused`; parameters and buffers draw from the streams of their names in the
    model. Tensors that only fills have written are filled on `device` directly; those that the code
    computed are moved there. Buffers keep their values, tied parameters stay tied; on meta,
    parameters that are views of one storage become parameters of their own.

    Args:
        fn: makes the model, for example `lambda: LlamaForCausalLM(config)`.
        device: the model's device; by default tensors stay where `fn` puts them. On "meta" it has
            no memory until `fastinit.materialize`, which may follow sharding, gives it memory and
            values.
        dtype: PyTorch's default dtype while `fn` runs; by default unchanged.
        seed: see `fused`.
        strict: raise for a parameter that is not wholly written (only memory of `torch.empty` and
            its like is known to be new, not that of the old `torch.Tensor(n)`), and, with a seed,
            for values that depend on the order of execution because a tensor was filled before it
            had a name. What the code computed is neither. If False, that is a UserWarning.
        init_weights: whether to call the model's `init_weights` after `fn`, as `materialize` does.
            By default it is not called, and a UserWarning says so if there is one that nothing has
            run.
        prefix: stands before every name, see `fused`.
        manifest: path of a file to which the plan's manifest is written, as JSON for `regenerate`
            and `verify`. (`with fused() as plan: model = build(fn)` gives it as an object.)

    Returns:
        The model that `fn` returns.

    Raises:
        TypeError: `fn` is no function, or returns no module; a seed that is no integer; a dtype
            that is none.
        RuntimeError: the call is inside an `init_weights`; the device is not there.
        ValueError: as for `fused`; with `strict`, what it names; parameters or buffers that `fn`
            made on meta; if the device is meta, tensors that are lazy, sparse or of a subclass;
            `init_weights=True` for a model without one.
        FileNotFoundError: the folder of `manifest`.

    Examples:
        >>> model = fastinit.build(lambda: GPT2LMHeadModel(config), device="cuda", seed=0)
    """
    require_function(fn)
    dtype = checked_dtype(dtype)
    target = checked_device(device, "build", may_be_meta=True)
    path = None if manifest is None else Path(manifest)
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"build: the folder of manifest={str(path)!r} does not exist")
    with fused(seed, prefix=prefix) as plan:
        if plan.account is None:
            raise RuntimeError("build inside an init_weights: build the model first")
        with default_dtype(dtype), _awaiting_root(plan):
            model = fn()
        if not isinstance(model, nn.Module):
            raise TypeError(f"build: fn must return a module, it returned a {_kind(model)}")
        plan.add_root(model)
        warn_of_repetition("build", model, seed, prefix)
        with default_dtype(dtype):
            _run_init_weights(plan, model, init_weights)
        name_again(plan)
        with unwatched():
            _require_memory(model)
            _report(plan, model, strict)
            if path is not None:
                path.write_text(manifest_of_model(plan).to_json())
            if target is not None and target.type == "meta":
                _strip(plan, model)
            elif target is not None:
                _move(plan, model, target)
    return model


def _kind(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {', '.join(type(item).__name__ for item in value)}"
    return type(value).__name__


def _run_init_weights(plan: Plan, model: nn.Module, wanted: bool | None) -> None:
    """Call the model's `init_weights`, or warn if nothing has."""
    if wanted is False:
        return
    name = type(model).__name__
    if wanted:
        own = init_weights_of(model)
        if own is None:
            raise ValueError(f"build: init_weights=True, but {name} has none")
        own(model)
    elif plan.recorder is not None and is_unrun(model, plan.recorder):
        warnings.warn(
            f"build: {name} has init_weights, and nothing has run it; pass init_weights=True to "
            "run it (materialize will not), or False to leave it",
            NotInitializedWarning,
            stacklevel=3,
        )


@contextmanager
def _awaiting_root(plan: Plan) -> Iterator[None]:
    """Let no `init_weights` in the block name tensors: the model that `fn` returns will."""
    before, plan.scope.awaits_root = plan.scope.awaits_root, True
    try:
        yield
    finally:
        plan.scope.awaits_root = before


@contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Set PyTorch's default dtype for the block, and restore it; None leaves it unchanged."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _require_memory(model: nn.Module) -> None:
    bare = [name for name, t in named_tensors(walk(model)) if is_meta(t) and not is_lazy(t)]
    if bare:
        raise ValueError(
            f"build: {listed(bare)} are on the meta device; let fn construct on the CPU, where "
            "memory that nobody touches costs nothing, or use fastinit.materialize"
        )


def _report(plan: Plan, model: nn.Module, strict: bool) -> None:
    """Warn of what is not known; with `strict`, raise."""
    recorder = plan.recorder
    if recorder is None:
        return
    lacking = [
        f"{name} {tuple(tensor.shape)}"
        for name, tensor in unwritten(plan, model)
        if isinstance(tensor, nn.Parameter)
    ]
    if lacking:
        _refuse(
            f"nobody wrote all of {listed(lacking)}; initialise them, or make them of "
            "torch.zeros if that is meant",
            strict,
        )
    if early := early_without_groups(recorder, plan.ungrouped):
        warnings.warn(
            f"{listed(early)}: read by the model's code, or made orthogonal, before it had the "
            "name that fan_groups knows; initialise it in fused(root=model)",
            ReproducibilityWarning,
            stacklevel=3,
        )
    if plan.explicit_seed is not None and (nameless := plan.order_dependent()):
        told = (f"{name} {shape} of {origin}" for name, shape, origin in nameless)
        _refuse(
            f"{listed(told)}: drawn before the tensor had a name, since code read, copied, changed "
            "or kept it, so that its values depend on the order of execution, and not on the name "
            "and the seed alone; let init_weights do that, or draw it in fused(root=model)",
            strict,
        )


def _refuse(reason: str, strict: bool) -> None:
    if strict:
        raise ValueError(f"build: {reason}, or pass strict=False")
    warnings.warn(f"build: {reason}", ReproducibilityWarning, stacklevel=4)


def _move(plan: Plan, model: nn.Module, device: torch.device) -> None:
    """Move parameters and buffers to a device; memory that only waits for fills is not copied."""
    memory: dict[int, torch.UntypedStorage] = {}
    tensors = _by_storage(model)

    def on_device(tensor: Tensor) -> Tensor:
        if tensor.device == device:
            return tensor
        if is_lazy(tensor) or tensor.layout is not torch.strided:
            tensor.data = tensor.data.to(device)
            return tensor
        if not _is_memory(tensor):
            other = tensor.detach().to(device)
            is_parameter = isinstance(tensor, nn.Parameter)
            return nn.Parameter(other, tensor.requires_grad) if is_parameter else other
        storage = storage_key(tensor)
        if storage not in memory:
            memory[storage] = moved(plan, tensors[storage], device)
        tensor.data = tensor_over(memory[storage], tensor)
        return tensor

    exchange(walk(model), on_device)


def _by_storage(model: nn.Module) -> dict[int, list[Tensor]]:
    """Return the parameters and buffers in ordinary memory by the storage that they share."""
    found: dict[int, dict[int, Tensor]] = {}
    for _, tensor in named_tensors(walk(model)):
        if not is_lazy(tensor) and _is_memory(tensor):
            found.setdefault(storage_key(tensor), {})[id(tensor)] = tensor
    return {storage: list(tensors.values()) for storage, tensors in found.items()}


def _is_memory(tensor: Tensor) -> bool:
    """Whether a tensor is ordinary strided memory, no subclass made of other tensors."""
    return tensor.layout is torch.strided and type(tensor.data) is Tensor


def _strip(plan: Plan, model: nn.Module) -> None:
    """Put the model on meta, and attach the recipe of its values."""
    lazy = [name for name, tensor in named_tensors(walk(model)) if is_lazy(tensor)]
    if lazy:
        raise ValueError(f"build: {listed(lazy)} are lazy: they have no shapes to keep on meta")
    others = [name for name, tensor in named_tensors(walk(model)) if not _is_memory(tensor)]
    if others:
        raise ValueError(
            f"build: {listed(others)} are of tensor subclasses or sparse; only ordinary tensors "
            "can be kept on meta, so make them such after materialize"
        )
    if shared := sharing(named_tensors(walk(model))):
        raise ValueError(
            f"build: {' and '.join(shared)} share memory, which could not be kept on meta; build "
            "the model on its device"
        )
    require_no_computed("build", model)
    manifest = manifest_of_model(plan)
    filled = {
        name
        for tensor in manifest.tensors
        if tensor.status == "filled"
        for name in (tensor.name, *tensor.aliases)
    }
    named = list(named_tensors(walk(model)))
    needed = {storage_key(tensor) for name, tensor in named if name not in filled}
    tensors = _by_storage(model)
    drop(plan, [tensors[storage] for storage in tensors.keys() - needed])
    unwritten = {id(tensor) for _, tensor in named if plan.pending.is_unwritten(tensor)}
    plan.finish()
    values = {
        name: tensor.detach()
        for name, tensor in named
        if name not in filled and id(tensor) not in unwritten
    }
    for tensor in {id(tensor): tensor for _, tensor in named}.values():
        plan.pending.leave(tensor)
    with suspended():
        release(model)
    attach(model, Recipe(manifest, values, plan.seed, plan.explicit_seed is not None))
