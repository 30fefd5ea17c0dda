"""Who wrote what during an init_weights: recorded as it happens, in mmengine's words."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from fastinit.names import storage_key

# Our own looks at tensors are not for the mode that watches everybody else's.
_unwatched = torch._C.DisableTorchFunction


class _Entry:
    __slots__ = ("info", "parameter", "snapshot", "written")

    def __init__(self, parameter: nn.Parameter, info: str) -> None:
        self.parameter = parameter
        self.info = info
        self.written = False
        self.snapshot: Tensor | None = None  # of a parameter that may change out of our sight


def _is_pretrained(info: str) -> bool:
    return info.startswith("PretrainedInit: ")


class Initialization:
    """The provenance of one top-level `init_weights`.

    It knows the root's modules and parameters as they were when it began.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._modules = {id(module) for module in root.modules()}
        text = (
            "The value is the same before and after calling `init_weights` of "
            f"{type(root).__name__} "
        )
        self._entries = {id(p): _Entry(p, text) for p in root.parameters()}
        self.lost: dict[str, tuple[str, str]] = {}  # pretrained parameters: loaded, then written
        self._by_storage: defaultdict[int, list[_Entry]] = defaultdict(list)
        with _unwatched():
            for entry in self._entries.values():
                if entry.parameter.layout is torch.strided:
                    self._watch(entry)

    def _watch(self, entry: _Entry) -> None:
        self._by_storage[storage_key(entry.parameter)].append(entry)

    def covers(self, module: nn.Module) -> bool:
        """Whether the module was part of the root when the initialization began."""
        return id(module) in self._modules

    def wrote(self, storage: int) -> None:
        """Something was written to this memory."""
        for entry in self._by_storage.get(storage, ()):
            entry.written = True

    def replaced(self, tensor: Tensor) -> None:
        """`tensor.data` was set: other memory stands behind it now."""
        entry = self._entries.get(id(tensor))
        if entry is not None:
            entry.written = True
            self._watch(entry)

    def escaped(self, storage: int) -> None:
        """Code that we cannot watch (NumPy, a raw pointer) may write this memory from now on."""
        for entry in self._by_storage.get(storage, ()):
            if entry.snapshot is None:
                entry.snapshot = entry.parameter.detach().clone()

    def update(self, module: nn.Module, init_info: str) -> None:
        """Credit `init_info` with every parameter of `module` written since it was last credited.

        Raises:
            AssertionError: a parameter of `module` was not there when the initialization began.
        """
        for name, parameter in module.named_parameters():
            entry = self._entries.get(id(parameter))
            if entry is None:
                raise AssertionError(
                    f"parameter `{name}` of `{type(module).__name__}` was added or replaced while "
                    "`init_weights` ran; write into the existing parameter instead, for example "
                    "with `.data.copy_(...)`"
                )
            if entry.snapshot is not None:
                with _unwatched():
                    current = entry.parameter.detach()
                    entry.written |= not torch.equal(current, entry.snapshot)
                    entry.snapshot = current.clone()
            if entry.written:
                if _is_pretrained(entry.info) and not _is_pretrained(init_info):
                    self.lost[name] = (entry.info, init_info)
                entry.info = init_info
                entry.written = False

    def report(self) -> list[tuple[str, torch.Size, str]]:
        """(name, shape, text) of every parameter that the root has now."""
        unknown = "Added during `init_weights`"
        with _unwatched():
            return [
                (name, p.shape, e.info if (e := self._entries.get(id(p))) else unknown)
                for name, p in self.root.named_parameters()
            ]
