"""Memory for the tensors of a model, given and taken away; their objects stay."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.models.checks import listed
from fastinit.tensors.meta import attributes, is_meta
from fastinit.tensors.shards import is_dtensor, local_region
from fastinit.tensors.storage import sharing
from fastinit.tensors.torch_private import (
    FLAT_WEIGHT_REFS,
    flat_weight_refs,
    renew_flat_weight_refs,
    unwatched,
)
from fastinit.tensors.walk import slots, walk

Named = list[tuple[str, Tensor]]


def require_allocatable(model: nn.Module, bare: Named) -> None:
    """Raise for tensors that cannot be given memory, before any is."""
    if any(isinstance(module, torch.jit.ScriptModule) for _, module in walk(model)):
        raise ValueError(
            "materialize: the model contains scripted modules, whose parameters cannot be "
            "replaced; script it after materialize"
        )
    require_no_computed("materialize", model)
    for _, tensor in bare:
        local_region(tensor)
    own = _weak_references_of_rnns(model)
    for name, tensor in bare:
        others = [ref for ref in weakref.getweakrefs(tensor) if id(ref) not in own]
        if isinstance(tensor, nn.Parameter) and others:
            raise ValueError(
                f"materialize: {name} cannot be given memory while something holds a weak "
                "reference to it; make that after materialize"
            )
    if shared := sharing(bare):
        raise ValueError(
            f"materialize: {' and '.join(shared)} share memory, which would be lost; build the "
            "model on its device"
        )


def require_no_computed(caller: str, model: nn.Module) -> None:
    """Raise for tensors that modules hold beside their parameters, and have computed from them.

    Raises:
        ValueError: there is one.
    """
    computed = [
        f"{prefix}{name}"
        for prefix, module in walk(model)
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]
    if computed:
        raise ValueError(
            f"{caller}: {listed(computed)} are computed from parameters that are to move, as by "
            "torch.nn.utils.weight_norm; use torch.nn.utils.parametrizations, which computes anew"
        )


def _weak_references_of_rnns(model: nn.Module) -> set[int]:
    """Return the ids of the references that recurrent modules hold, which they renew themselves."""
    return {
        id(ref)
        for _, module in walk(model)
        if isinstance(module, nn.RNNBase)
        for ref in flat_weight_refs(module)
    }


def default_device(named: Named) -> torch.device:
    """Return the current device of the first mesh among the tensors, else the CPU."""
    for _, tensor in named:
        if is_dtensor(tensor):
            kind = tensor.device_mesh.device_type  # type: ignore[attr-defined]
            here = ("cuda", torch.cuda.current_device()) if kind == "cuda" else (kind,)
            return torch.device(*here)
    return torch.device("cpu")


def allocate(model: nn.Module, device: torch.device) -> None:
    """Give memory to all tensors of a model that are on meta."""

    def allocated(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device) if is_meta(tensor) else tensor

    _exchange_contents(model, allocated)


def release(model: nn.Module, which: Callable[[Tensor], bool] = lambda tensor: True) -> None:
    """Put tensors of a model on meta."""

    def released(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="meta") if which(tensor) else tensor

    _exchange_contents(model, released)


def _exchange_contents(model: nn.Module, other: Callable[[Tensor], Tensor]) -> None:
    def exchanged(tensor: Tensor) -> Tensor:
        new = tensor if is_lazy(tensor) else other(tensor)
        if new is not tensor and not isinstance(tensor, nn.Parameter):
            attributes(tensor)(new)
        return new

    before = [(p, type(p), attributes(p)) for p in model.parameters() if not is_lazy(p)]
    with _swapping(), torch.no_grad():
        # `_apply`, because FSDP learns there of its shards' new memory.
        model._apply(exchanged)  # type: ignore[no-untyped-call]
    for parameter, kind, hang in before:  # the swap has exchanged these too
        parameter.__class__ = kind
        hang(parameter)


@contextmanager
def _swapping() -> Iterator[None]:
    """Let `Module._apply` keep the parameter objects, and so their ties, across devices."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@contextmanager
def kept_in_place(model: nn.Module, names: set[str]) -> Iterator[None]:
    """Put copies in the places of all parameters but those of these names, for the block."""
    others = [slot for slot in slots(walk(model)) if slot[0] not in names]
    copies: dict[int, nn.Parameter] = {}
    kept = []
    for _, group, key, tensor in others:
        if not isinstance(tensor, nn.Parameter) or is_meta(tensor):
            continue
        if id(tensor) not in copies:
            with torch.no_grad(), unwatched():
                copies[id(tensor)] = nn.Parameter(tensor.detach().clone(), tensor.requires_grad)
        group[key] = copies[id(tensor)]
        kept.append((group, key, tensor))
    try:
        yield
    finally:
        for group, key, tensor in kept:
            group[key] = tensor


def snapshot(model: nn.Module) -> Callable[[], None]:
    """Return a function that gives all modules the attributes, and the places in their registries,
    that they have now."""
    modules = [module for _, module in walk(model)]
    places: list[dict[str, Any]] = [vars(module) for module in modules]
    for module in modules:
        places += [module._parameters, module._buffers, module._modules]
    before = [dict(place) for place in places]
    for items in before:  # which would keep parameters from getting memory
        items.pop(FLAT_WEIGHT_REFS, None)

    def restore() -> None:
        for place, items in zip(places, before, strict=True):
            place.clear()
            place.update(items)
        for module in modules:
            if isinstance(module, nn.RNNBase):
                renew_flat_weight_refs(module)

    return restore


@contextmanager
def undone_on_error(model: nn.Module) -> Iterator[None]:
    """Restore the model if the block raises: attributes of modules, and what was on meta."""
    restore = snapshot(model)
    bare = {id(p) for p in model.parameters() if not is_lazy(p) and is_meta(p)}
    try:
        yield
    except BaseException:
        restore()
        if any(id(p) in bare and not is_meta(p) for p in model.parameters() if not is_lazy(p)):
            release(model, lambda tensor: id(tensor) in bare)
        raise
