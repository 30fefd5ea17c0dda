"""Names at the end of a plan: of tensors that took the places of others, of what nobody wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastinit.manifest.manifest import Manifest, Written
from fastinit.plan.plan import Plan
from fastinit.tensors.shards import is_dtensor, local_region
from fastinit.tensors.storage import storage_key
from fastinit.tensors.torch_private import local_tensor, unwatched
from fastinit.tensors.walk import named_tensors, walk

if TYPE_CHECKING:
    from fastinit._C import Recorder


def name_again(plan: Plan) -> None:
    """Name tensors that have taken the places of others in a root, as `to_empty` replaces
    parameters, if some of what waits has no name."""
    recorder = plan.recorder
    if recorder is None or not plan.scope.roots or not recorder.has_unnamed():
        return
    with unwatched():
        for prefix, root in plan.scope.roots:
            for name, tensor in named_tensors(walk(root)):
                memory = plan.named_memory(prefix + name, tensor)
                if memory is None:
                    continue
                named = recorder.named(storage_key(memory))
                if is_dtensor(tensor):
                    if not named:
                        recorder.add_name(prefix + name, memory, tensor)
                elif all(known is not tensor for _, known in named):
                    recorder.add_name(prefix + name, memory)


def manifest_of_model(plan: Plan) -> Manifest:
    """Return the manifest of a plan for its roots as they are now: parameters that code has put in
    the places of others, and that no fill of theirs is known of, are computed."""
    manifest = plan.manifest()
    if plan.recorder is None:
        return manifest
    found = {tensor.name: tensor for tensor in manifest.tensors}  # of two the later one
    owners = {name: t.name for t in found.values() for name in (t.name, *t.aliases)}
    with unwatched():
        for prefix, root in plan.scope.roots:
            for own, tensor in named_tensors(walk(root)):
                name = prefix + own
                if name in owners and not _is_named(plan.recorder, name, tensor):
                    before = found.pop(owners[name])
                    others = [n for n in (before.name, *before.aliases) if n != name]
                    for first in others[:1]:
                        found[first] = replace(before, name=first, aliases=tuple(others[1:]))
                        owners |= dict.fromkeys(others, first)
                    found[name] = Written.of(
                        name, tensor.shape, tensor.dtype, "computed", (), before.writes
                    )
    return Manifest(tuple(found.values()), manifest.unmatched)


def _is_named(recorder: Recorder, name: str, tensor: Tensor) -> bool:
    if is_lazy(tensor) or tensor.layout is not torch.strided:
        return False
    memory = local_tensor(tensor) if is_dtensor(tensor) else tensor
    place = (memory.shape, memory.stride(), memory.storage_offset())
    return any(
        known == name and (of.shape, of.stride(), of.storage_offset()) == place
        for known, of in recorder.named(storage_key(memory))
    )


def unwritten(plan: Plan, root: nn.Module) -> list[tuple[str, Tensor]]:
    """Return (name, tensor) of a root's parameters and buffers that are not wholly written."""
    recorder = plan.pending
    prefixes = [prefix for prefix, known in plan.scope.roots if known is root]
    lacking = {name for name, _ in recorder.unwritten()}
    with unwatched():
        return [
            (name, tensor)
            for name, tensor in (named_tensors(walk(root)) if lacking else ())
            # Code may have put another tensor in the place of the one with the name.
            if any(prefix + name in lacking for prefix in prefixes)
            and not is_lazy(tensor)
            and recorder.is_unwritten(local_region(tensor).local)
        ]


@contextmanager
def named_as(plan: Plan | None, module: nn.Module, name: str, tensor: Tensor) -> Iterator[None]:
    """Let a tensor draw, in the block, under the name that a parameter of the module would have."""
    recorder = None if plan is None else plan.recorder
    known = None if plan is None or recorder is None else _prefix_of(plan, module)
    memory = None
    if plan is not None and known is not None:
        memory = plan.named_memory(known + name, tensor)
    if recorder is None or known is None or memory is None:
        yield
        return
    recorder.add_name(known + name, memory, *(() if memory is tensor else (tensor,)))
    try:
        yield
    finally:
        recorder.unname(storage_key(memory))


def _prefix_of(plan: Plan, module: nn.Module) -> str | None:
    for prefix, root in plan.scope.roots:
        for below, known in walk(root):
            if known is module:
                return prefix + below
    return None
