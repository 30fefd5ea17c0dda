"""Stream names: which parameter a piece of memory belongs to, and its Philox stream."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parallel import DataParallel, DistributedDataParallel

Held = StorageWeakRef
_TRANSPARENT = frozenset(("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"))


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


def _child_prefix(module: nn.Module, prefix: str, child: str) -> str:
    wraps = isinstance(module, (DataParallel, DistributedDataParallel)) and child == "module"
    return prefix if wraps or child in _TRANSPARENT else f"{prefix}{child}."


def walk(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, parents first, with the prefix of its parameters' names.

    Wrapper levels (torch.compile, activation checkpointing, FSDP, DDP) leave no trace in the names,
    as in torch's distributed checkpoints.
    """
    seen: set[int] = set()

    def visit(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        yield prefix, module
        for name, child in module._modules.items():
            if child is not None:
                yield from visit(child, _child_prefix(module, prefix, name))

    return visit(root, "")


def named_tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their names, tied ones under each of their names."""
    for prefix, module in walk(root):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    yield prefix + name, tensor
