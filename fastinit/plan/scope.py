"""The scope of a plan: its roots, and the `init_weights` that run in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fastinit.plan.provenance import Initialization, Writes
from fastinit.tensors.walk import Modules, walk

if TYPE_CHECKING:
    from fastinit._C import Recorder


class Scope:
    """The modules of a plan.

    Attributes:
        awaits_root: whether names come from one root that is not known yet, and from no other.
        prefix: stands before the names of roots that are added.
        roots: each with the prefix of its names.
        running: the provenance of each `init_weights` running in the plan, outermost first.
        writes: knows when each storage was last written.
    """

    def __init__(self, writes: Writes | Recorder | None = None) -> None:
        self.writes: Writes | Recorder = Writes() if writes is None else writes
        self.awaits_root = False
        self.prefix = ""
        self.running: list[Initialization] = []
        self._modules: dict[int, nn.Module] = {}  # of all roots, held so that ids stay unique
        self.roots: list[tuple[str, nn.Module]] = []

    def __contains__(self, module: nn.Module) -> bool:
        return id(module) in self._modules

    def add(self, root: nn.Module, modules: Modules | None = None) -> tuple[str, Modules] | None:
        """Add a root, whose walk is `modules`.

        Returns:
            The prefix of its names in the plan, and its walk; None if it is part of an earlier
            root, or another root is awaited.
        """
        if self.awaits_root or root in self:
            return None
        prefix = (f"#{len(self.roots)}/" if self.roots else "") + self.prefix
        self.roots.append((prefix, root))
        if modules is None:
            modules = walk(root)
        self._modules |= {id(module): module for _, module in modules}
        return prefix, modules

    @contextmanager
    def prefixed(self, prefix: str) -> Iterator[None]:
        """Let one more prefix stand before the names of roots that are added in the block."""
        before, self.prefix = self.prefix, self.prefix + prefix
        try:
            yield
        finally:
            self.prefix = before

    def covering(self, module: nn.Module) -> Initialization | None:
        """Return the innermost running initialization that covers `module`, or None."""
        return next((i for i in reversed(self.running) if i.covers(module)), None)

    def replaced(self, tensor: Tensor) -> None:
        """Note that the tensor has other memory than before."""
        for initialization in self.running:
            initialization.replaced(tensor)

    def escaped(self, storage: int) -> None:
        """Note that this storage may be written unseen from now on."""
        for initialization in self.running:
            initialization.escaped(storage)
