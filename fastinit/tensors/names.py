"""Stream names: which parameter a piece of memory belongs to, and its Philox stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parallel import DataParallel, DistributedDataParallel

Held = StorageWeakRef
_TRANSPARENT = frozenset(("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"))
_PARALLEL = (DataParallel, DistributedDataParallel)


@lru_cache(maxsize=1 << 16)
def stream_of(name: str) -> int:
    """The 64-bit Philox stream of a name: BLAKE2b of its UTF-8 bytes, little-endian."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def storage_key(tensor: Tensor) -> int:
    """Identity of the memory behind a tensor: equal for views, `.data` and tied parameters."""
    key: int = tensor.untyped_storage()._cdata
    return key


def hold(tensor: Tensor) -> Held:
    """Keeps `storage_key` from being given to other memory, without keeping the memory."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def walk(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module once, parents first, with the prefix of its parameters' names.

    Wrapper levels (torch.compile, activation checkpointing, FSDP, DDP) leave no trace in the names,
    as in torch's distributed checkpoints.
    """
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
        # A list, because a ScriptModule's children cannot be walked backwards.
        for name, child in reversed(list(children.items())) if children else ():
            if child is not None:
                wraps = name in _TRANSPARENT or (name == "module" and isinstance(module, _PARALLEL))
                ahead.append((prefix if wraps else f"{prefix}{name}.", child))
    return found


Slot = tuple[str, dict[str, Any], str, Tensor]


def slots(modules: list[tuple[str, nn.Module]]) -> Iterator[Slot]:
    """(full name, its module's dictionary, key there, tensor) of parameters and buffers of walked
    modules, tied ones under each of their names."""
    for prefix, module in modules:
        tensors: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for group in tensors if tensors[1] else tensors[:1]:
            for name, tensor in group.items():
                if tensor is not None:
                    yield prefix + name, group, name, tensor


def named_tensors(modules: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of walked modules with their names, tied ones under each of them."""
    for name, _, _, tensor in slots(modules):
        yield name, tensor


def exchange(modules: list[tuple[str, nn.Module]], other: Callable[[Tensor], Tensor]) -> list[Slot]:
    """Put other tensors in the place of parameters and buffers, the same for tied ones.

    Returns:
        What stood where before.
    """
    before = list(slots(modules))
    made: dict[int, Tensor] = {}
    for _, group, key, tensor in before:
        if id(tensor) not in made:
            made[id(tensor)] = other(tensor)
        group[key] = made[id(tensor)]
    return before
