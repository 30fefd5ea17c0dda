"""The provenance of an `init_weights`: who wrote what, in mmengine's words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastinit.kernels.native import _C
from fastinit.tensors.storage import storage_key
from fastinit.tensors.torch_private import unwatched as _unwatched
from fastinit.tensors.walk import Modules, walk

if TYPE_CHECKING:
    from fastinit._C import Recorder


class Writes:
    """When each storage was last written; in a plan that defers, its recorder knows.

    Attributes:
        clock: counts writes.
    """

    def __init__(self) -> None:
        self.clock = 0
        self._written: dict[int, int] = {}

    def wrote(self, tensor: Tensor) -> None:
        """Note a write to the tensor's storage."""
        self.clock += 1
        self._written[storage_key(tensor)] = self.clock

    def written_at(self, storage: int) -> int:
        """Return the clock at the last write to a storage; 0 if there was none."""
        return self._written.get(storage, 0)


def _is_pretrained(info: str) -> bool:
    return info.startswith("PretrainedInit: ")


class Initialization:
    """The provenance of one top-level `init_weights`.

    It knows the root's modules and parameters as they were when it began.

    Args:
        root: the module whose `init_weights` runs.
        modules: the root's walk.
        writes: knows when each storage was last written.
    """

    def __init__(self, root: nn.Module, modules: Modules, writes: Writes | Recorder) -> None:
        self.root = root
        self.modules = [module for _, module in modules]
        self._modules = set(map(id, self.modules))
        text = (
            "The value is the same before and after calling `init_weights` of "
            f"{type(root).__name__} "
        )
        self._parameters: dict[int, nn.Parameter] = (
            _C.parameters_by_id(modules)
            if _C is not None
            else {id(p): p for _, m in modules for p in m._parameters.values() if p is not None}
        )
        self._start = text
        self._info: dict[int, str] = {}  # by parameter id, who is credited with it
        self._credited: dict[int, int] = {}  # by parameter id, when that was
        self._settled: dict[int, int] = {}  # by module id, when all below it was credited
        self._writes = writes
        self._snapshots: dict[int, Tensor] = {}  # by parameter id, if writes may go unseen
        self._has_pretrained = False
        self._overwritten: dict[int, tuple[str, str]] = {}  # by parameter id

    def covers(self, module: nn.Module) -> bool:
        """Whether the module was part of the root when the initialization began."""
        return id(module) in self._modules

    def replaced(self, tensor: Tensor) -> None:
        """Note that `tensor.data` was set, and that the new memory counts as written."""
        self.__dict__.pop("_by_storage", None)
        if tensor.layout is torch.strided:
            with _unwatched():
                self._writes.wrote(tensor)

    def escaped(self, storage: int) -> None:
        """Note that code may write this storage unseen from now on (NumPy, a raw pointer)."""
        with _unwatched():
            for parameter in self._by_storage.get(storage, ()):
                self._snapshots.setdefault(id(parameter), parameter.detach().clone())

    @cached_property
    def _by_storage(self) -> dict[int, list[Tensor]]:
        found: defaultdict[int, list[Tensor]] = defaultdict(list)
        for parameter in self._parameters.values():
            if parameter.layout is torch.strided:
                found[storage_key(parameter)].append(parameter)
        return found

    def update(self, module: nn.Module, init_info: str) -> None:
        """Credit `init_info` with every parameter of `module` written since it was last credited.

        Raises:
            AssertionError: a parameter of `module` was not there when the initialization began.
        """
        with _unwatched():
            written = self._written_in(module)
        if _is_pretrained(init_info):
            self._has_pretrained = True
        elif self._has_pretrained:
            for key in written:
                if _is_pretrained(before := self._info.get(key, "")):
                    self._overwritten[key] = (before, init_info)
        self._info.update(dict.fromkeys(written, init_info))
        self._credited.update(dict.fromkeys(written, self._writes.clock))
        self._settled[id(module)] = self._writes.clock

    def knows(self, parameter: object) -> bool:
        """Whether the parameter was there when the initialization began."""
        return id(parameter) in self._parameters

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that were there when it began."""
        return list(self._parameters.values())

    def credited(self, parameter: nn.Parameter) -> str | None:
        """Return who is credited with a parameter; None if nobody has written it."""
        return self._info.get(id(parameter))

    def is_written(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter was written since it was last credited."""
        with _unwatched():
            return self._is_written(id(parameter), parameter)

    def written_at(self, storage: int) -> int:
        """Return the number of the last write of a storage."""
        return self._writes.written_at(storage)

    def credit(self, parameter: nn.Parameter, init_info: str) -> None:
        """Credit `init_info` with what was written of one parameter."""
        self._info[id(parameter)] = init_info
        self._credited[id(parameter)] = self._writes.clock

    def text_of(self, parameter: nn.Parameter) -> str:
        """Return who is credited with a parameter."""
        return self._text(id(parameter))

    def check(self) -> None:
        """Look for foreign parameters once more, where `update` did not look again.

        Raises:
            AssertionError: as `update`.
        """
        children = [child for child in self.root.children() if id(child) in self._settled]
        self._settled.clear()
        with _unwatched():
            for child in children:
                self._written_in(child)

    def _written_in(self, module: nn.Module) -> Iterable[int]:
        """Return the ids of the parameters written since they were last credited."""
        if self._snapshots or isinstance(self._writes, Writes):
            found: dict[int, None] = {}
            for prefix, part in walk(module):
                for name, parameter in part._parameters.items():
                    if parameter is None:
                        continue
                    if id(parameter) not in self._parameters:
                        raise self._foreign(module, prefix + name)
                    if self._is_written(id(parameter), parameter):
                        found[id(parameter)] = None
            return found
        try:
            return self._writes.written_since(
                module, self._parameters, self._credited, self._settled
            )
        except KeyError:
            for name, parameter in module.named_parameters():
                if id(parameter) not in self._parameters:
                    raise self._foreign(module, name) from None
            raise

    def _foreign(self, module: nn.Module, name: str) -> AssertionError:
        return AssertionError(
            f"parameter `{name}` of `{type(module).__name__}` was added or replaced while "
            "`init_weights` ran; write into the existing parameter instead, for example with "
            "`.data.copy_(...)`"
        )

    @property
    def overwritten(self) -> dict[str, tuple[str, str]]:
        """By name, the pretrained parameters that were overwritten: (loaded by, written by)."""
        if not self._overwritten:
            return {}
        names = {id(p): name for name, p in self.root.named_parameters()}
        return {names.get(key, "?"): by for key, by in self._overwritten.items()}

    def _is_written(self, key: int, parameter: nn.Parameter) -> bool:
        """Whether the parameter was written since it was last credited."""
        if parameter.layout is not torch.strided:
            return False
        written = self._writes.written_at(storage_key(parameter)) > self._credited.get(key, 0)
        before = self._snapshots.get(key)
        if before is not None:
            now = parameter.detach()
            written = written or not torch.equal(now, before)
            self._snapshots[key] = now.clone()
        return written

    def report(self) -> list[tuple[str, torch.Size, str]]:
        """Return (name, shape, text) of every parameter that the root has now."""
        with _unwatched():
            return [(name, p.shape, self._text(id(p))) for name, p in self.root.named_parameters()]

    def _text(self, key: int) -> str:
        if key not in self._parameters:
            return "Added during `init_weights`"
        return self._info.get(key, self._start)
