"""`build`: a whole model, made by any code, filled at once on its device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.capture.fused import fused
from fastinit.models.recipe import Recipe, attach
from fastinit.plan.carry import drop, moved
from fastinit.plan.fan_groups import early_without_groups
from fastinit.plan.plan import Plan
from fastinit.tensors.meta import is_meta, on_meta
from fastinit.tensors.storage import sharing, storage_key, tensor_over
from fastinit.tensors.torch_private import unwatched
from fastinit.tensors.walk import exchange, named_tensors, walk

Model = TypeVar("Model", bound=nn.Module)


def build(
    fn: Callable[[], Model],
    *,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    seed: int | None = None,
    strict: bool = False,
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
        strict: raise for a parameter that is not wholly written, which by default is a UserWarning
            (only memory of `torch.empty` and its like is known to be new, not that of the old
            `torch.Tensor(n)`), and for values that depend on the order of execution because a
            tensor was filled before it had a name.

    Returns:
        The model that `fn` returns.

    Raises:
        TypeError: `fn` returns no module; a seed that is no integer.
        RuntimeError: the call is inside an `init_weights`.
        ValueError: as for `fused`; parameters or buffers that `fn` made on meta; if the device is
            meta, tensors that are lazy, sparse or of a subclass; with `strict`, what it names.

    Examples:
        >>> model = fastinit.build(lambda: GPT2LMHeadModel(config), device="cuda", seed=0)
    """
    with fused(seed) as plan:
        if plan.account is None:
            raise RuntimeError("build inside an init_weights: build the model first")
        with default_dtype(dtype), _awaiting_root(plan):
            model = fn()
        if not isinstance(model, nn.Module):
            raise TypeError(f"build: fn must return a module, it returned a {type(model).__name__}")
        plan.add_root(model)
        with unwatched():
            _require_memory(model)
            _report(plan, strict)
            target = None if device is None else torch.device(device)
            if target is not None and target.type == "meta":
                _strip(plan, model)
            elif target is not None:
                _move(plan, model, target)
    return model


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
            f"build: {', '.join(bare)} are on the meta device; let fn construct on the CPU, where "
            "memory that nobody touches costs nothing, or use fastinit.materialize"
        )


def _report(plan: Plan, strict: bool) -> None:
    """Warn of parameters that are not wholly written; with `strict`, raise."""
    recorder = plan.recorder
    unwritten = [
        f"{name} {tuple(tensor.shape)}"
        for name, tensor in (recorder.unwritten() if recorder is not None else ())
        if isinstance(tensor, nn.Parameter)
    ]
    if unwritten:
        text = (
            f"nobody wrote all of {', '.join(unwritten)}; initialise them, or make them of "
            "torch.zeros if that is meant"
        )
        if strict:
            raise ValueError(text)
        warnings.warn(text, UserWarning, stacklevel=4)
    if recorder is not None and (early := early_without_groups(recorder, plan.ungrouped)):
        warnings.warn(
            f"{', '.join(early)}: read by the model's code, or made orthogonal, before it had the "
            "name that fan_groups knows; initialise it in fused(root=model)",
            UserWarning,
            stacklevel=4,
        )
    if strict and (unnamed := plan.order_dependent()):
        raise ValueError(
            f"{', '.join(unnamed)}: drawn before the tensor had a name, so that its values depend "
            "on the order of execution"
        )


def _move(plan: Plan, model: nn.Module, device: torch.device) -> None:
    """Move parameters and buffers to a device; memory that only waits for fills is not copied."""
    memory: dict[int, torch.UntypedStorage] = {}

    def on_device(tensor: Tensor) -> Tensor:
        if tensor.device == device:
            return tensor
        if is_lazy(tensor) or not _is_memory(tensor):
            return tensor.to(device)
        storage = storage_key(tensor)
        if storage not in memory:
            memory[storage] = moved(plan, tensor, device)
        tensor.data = tensor_over(memory[storage], tensor)
        return tensor

    exchange(walk(model), on_device)


def _is_memory(tensor: Tensor) -> bool:
    """Whether a tensor is ordinary strided memory, no subclass made of other tensors."""
    return tensor.layout is torch.strided and type(tensor.data) is Tensor


def _strip(plan: Plan, model: nn.Module) -> None:
    """Put the model on meta, and attach the recipe of its values."""
    lazy = [name for name, tensor in named_tensors(walk(model)) if is_lazy(tensor)]
    if lazy:
        raise ValueError(f"build: {', '.join(lazy)} are lazy: they have no shapes to keep on meta")
    others = [name for name, tensor in named_tensors(walk(model)) if not _is_memory(tensor)]
    if others:
        raise ValueError(
            f"build: {', '.join(others)} are of tensor subclasses or sparse; only ordinary tensors "
            "can be kept on meta, so make them such after materialize"
        )
    if shared := sharing(named_tensors(walk(model))):
        raise ValueError(
            f"build: {' and '.join(shared)} share memory, which could not be kept on meta; build "
            "the model on its device"
        )
    manifest = plan.manifest()
    filled = {
        name
        for tensor in manifest.tensors
        if tensor.status == "filled"
        for name in (tensor.name, *tensor.aliases)
    }
    named = list(named_tensors(walk(model)))
    needed = {storage_key(tensor) for name, tensor in named if name not in filled}
    drop(plan, {storage_key(tensor) for _, tensor in named} - needed)
    unwritten = {id(tensor) for _, tensor in named if plan.pending.is_unwritten(tensor)}
    plan.finish()
    values = {
        name: tensor.detach()
        for name, tensor in named
        if name not in filled and id(tensor) not in unwritten
    }
    exchange(walk(model), on_meta)
    attach(model, Recipe(manifest, values, plan.seed, plan.explicit_seed is not None))
