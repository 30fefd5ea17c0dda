"""The modules of a model, and the names of their parameters and buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

WRAPPERS = (DataParallel, DistributedDataParallel)
"""Wrappers, whose `module` is the wrapped one."""

_TRANSPARENT = frozenset(("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"))


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module in wrappers that `walk` leaves out of names; without wrappers itself.

    Of DDP and DataParallel it takes off one level, as mmengine does.
    """
    if isinstance(module, WRAPPERS):
        module = module.module
    while True:
        inner = next((child for n, child in module._modules.items() if n in _TRANSPARENT), None)
        if inner is None:
            return module
        module = inner


Modules = list[tuple[str, nn.Module]]
"""Modules, each with the prefix of its parameters' names, as `walk` returns them."""


def walk(root: nn.Module) -> Modules:
    """Return every module once, parents first, with the prefix of its parameters' names.

    Levels of wrappers (torch.compile, activation checkpointing, FSDP, DDP) are left out of the
    names, as in torch's distributed checkpoints.
    """
    return _walk(root)


def use(native: Callable[..., Modules]) -> None:
    """Let the native function, which does the same faster, walk from now on."""
    global _walk
    _walk = lambda root: native(root, _TRANSPARENT, WRAPPERS)  # noqa: E731


def walk_in_python(root: nn.Module) -> Modules:
    """Return what `walk` does, without the native part."""
    found = []
    seen: set[int] = set()
    ahead: list[tuple[str, nn.Module]] = [("", root)]
    while ahead:
        prefix, module = ahead.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found.append((prefix, module))
        children = module._modules
        # A list, because a ScriptModule's children cannot be reversed.
        for name, child in reversed(list(children.items())) if children else ():
            if child is not None:
                wraps = name in _TRANSPARENT or (name == "module" and isinstance(module, WRAPPERS))
                ahead.append((prefix if wraps else f"{prefix}{name}.", child))
    return found


_walk: Callable[[nn.Module], Modules] = walk_in_python

Slot = tuple[str, dict[str, Any], str, Tensor]


def slots(modules: Modules) -> Iterator[Slot]:
    """Yield (FQN, its module's dictionary, key there, tensor) for parameters and buffers of walked
    modules, tied ones under each of their names."""
    for prefix, module in modules:
        tensors: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for group in tensors if tensors[1] else tensors[:1]:
            for name, tensor in group.items():
                if tensor is not None:
                    yield prefix + name, group, name, tensor


def named_tensors(modules: Modules) -> Iterator[tuple[str, Tensor]]:
    """Yield (FQN, tensor) for parameters and buffers of walked modules, tied ones repeatedly."""
    for name, _, _, tensor in slots(modules):
        yield name, tensor


def exchange(modules: Modules, other: Callable[[Tensor], Tensor]) -> list[Slot]:
    """Replace parameters and buffers by `other` of them, tied ones by one tensor.

    Returns:
        The slots as they were before.
    """
    before = list(slots(modules))
    made: dict[int, Tensor] = {}
    for _, group, key, tensor in before:
        if id(tensor) not in made:
            made[id(tensor)] = other(tensor)
        group[key] = made[id(tensor)]
    return before
