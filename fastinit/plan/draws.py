"""What torch's own random functions draw in a plan with a seed: from generators of the plan."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.RLock()


class Draws:
    """The generators of a plan, one for each device that is drawn on.

    They are seeded as `torch.manual_seed` would seed torch's default ones, which stay as they are:
    those belong to the process, and other threads draw from them.

    Args:
        seed: integer in [0, 2^64).
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed - (1 << 64) if seed >= 1 << 63 else seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self.is_default = False  # in a block of `as_default`

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the generator for a device."""
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def reseed(self, seed: int) -> torch.Generator:
        """Do what `torch.manual_seed` does; return the generator for the CPU."""
        self._seed = seed
        for generator in self._generators.values():
            generator.manual_seed(seed)
        return self.generator(torch.device("cpu"))

    @contextmanager
    def as_default(self, device: torch.device) -> Iterator[None]:
        """Let functions that take no generator draw from the plan's in the block.

        Meanwhile a draw from torch's default generator, in another thread, meets it. Blocks are not
        nested: within one no mode sees a call, and `is_default` is asked first.
        """
        own = self.generator(device)
        with _lock:
            default = (
                torch.cuda.default_generators[own.device.index]
                if own.device.type == "cuda"
                else torch.default_generator
            )
            before = default.get_state()
            default.set_state(own.get_state())
            self.is_default = True
            try:
                yield
            finally:
                self.is_default = False
                own.set_state(default.get_state())
                default.set_state(before)
