"""Copying the entries of a checkpoint into a module, by each module's own loading code: all of
them, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastinit.capture import arguments
from fastinit.capture.effects import EFFECTS, Effect
from fastinit.plan.current import deferred_copies
from fastinit.tensors.parts import parts
from fastinit.tensors.storage import storage_key
from fastinit.tensors.torch_private import unwatched
from fastinit.tensors.walk import unwrapped

StateDict = dict[str, Any]

_COUNTER = "num_batches_tracked"  # which older checkpoints do not have


class Outcome(NamedTuple):
    """What has come of loading: the number of tensors, and what did not fit, in words."""

    loaded: int
    problems: list[str]


class IncompatibleKeys(NamedTuple):
    """The keys that a post-hook of `load_state_dict` may look at and change."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Writes(TorchFunctionMode):
    """A mode in which what loading code copies into tensors, and the extra state that it sets, wait
    for `carry_out`. Code that reads such a tensor finds it written."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._targets: set[int] = set()
        self._settings: list[Callable[[], None]] = []

    def carry_out(self) -> None:
        """Make the copies, in a plan of an `init_weights` at its end; and set the extra state."""
        copies, self._copies = self._copies, []
        settings, self._settings = self._settings, []
        self._targets.clear()
        with torch.no_grad(), deferred_copies():
            for target, source in copies:
                target.copy_(source)
        for setting in settings:
            setting()

    @contextmanager
    def of_extra_state(self, module: nn.Module) -> Iterator[None]:
        """Let a call of the module's `set_extra_state` wait, too."""
        if type(module).set_extra_state is nn.Module.set_extra_state:
            yield
            return

        def later(state: Any) -> None:
            self._settings.append(lambda: module.set_extra_state(state))

        own = vars(module).get("set_extra_state")
        vars(module)["set_extra_state"] = later
        try:
            yield
        finally:
            if own is None:
                del vars(module)["set_extra_state"]
            else:
                vars(module)["set_extra_state"] = own

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.copy_ and len(args) == 2 and not kwargs:
            target, source = args
            if self._are_read(source):
                self.carry_out()  # as a hook of FSDP reads it, which moves shards
            if (
                source.layout is not torch.strided or source.is_meta
            ):  # if torch refuses it, then now
                source = torch.empty_like(target).copy_(source)
            self._copies.append((target, source))
            self._targets |= _storages(target) or set()
            return target
        is_look = not self._targets or EFFECTS.get(func) is Effect.LOOK
        if not is_look and self._are_read((args, kwargs)):
            self.carry_out()
        return func(*args, **(kwargs or {}))

    def _are_read(self, value: Any) -> bool:
        """Whether a call with a value may read what waits."""
        if not self._targets:
            return False
        read = _storages(value)
        return read is None or bool(read & self._targets)


def _storages(value: Any) -> set[int] | None:
    """Return the storages of the tensors in a value, of DTensors those of their local parts; None
    if it is not known what a tensor is made of."""
    with unwatched():
        found = [parts(tensor) for tensor in arguments.tensors(value)]
        if None in found:
            return None
        return {storage_key(part) for known in found for part in known or ()}


def prepare(
    module: nn.Module, entries: StateDict, metadata: Mapping[str, Any]
) -> tuple[Outcome, Writes]:
    """Run each module's own loading code, hooks included, and return what it would write.

    Args:
        module: the module.
        entries: by the module's names, without those of wrappers.
        metadata: the versions of the saved modules, by name.
    """
    found = IncompatibleKeys([], [])
    problems: list[str] = []
    expected = 0
    writes = Writes()

    def load(module: nn.Module, local: StateDict, prefix: str) -> None:
        nonlocal expected
        module = unwrapped(module)
        expected += sum(parameter is not None for parameter in module._parameters.values())
        expected += len(module._buffers.keys() - module._non_persistent_buffers_set - {_COUNTER})
        with writes.of_extra_state(module):
            module._load_from_state_dict(
                local, prefix, metadata.get(prefix[:-1], {}), True, *found, problems
            )
        for name, child in module._modules.items():
            if child is not None:
                below = f"{prefix}{name}."
                load(child, {k: v for k, v in local.items() if k.startswith(below)}, below)
        for hook in module._load_state_dict_post_hooks.values():
            if hook(module, found) is not None:
                raise AssertionError(
                    f"the load_state_dict post-hook {hook!r} of {type(module).__name__} must "
                    "change its keys in place and return None"
                )

    with writes:
        load(module, entries, "")
    missing = [key for key in found.missing_keys if _COUNTER not in key]
    loaded = expected - len(missing) - len(problems)
    if found.unexpected_keys:
        problems.append(f"not in the model: {', '.join(found.unexpected_keys)}")
    if missing:
        problems.append(f"not in the checkpoint: {', '.join(missing)}")
    return Outcome(max(loaded, 0), problems), writes
