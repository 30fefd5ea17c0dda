"""Seeds, the 64-bit Philox keys of fills: given, or drawn from torch."""

from __future__ import annotations

import operator
from contextlib import nullcontext

import torch

from fastinit.tensors import torch_private


def checked(seed: int | None) -> int | None:
    """Return a seed that a user gave as a Python integer; None stays None.

    Raises:
        TypeError: it is no integer.
        ValueError: it is outside [0, 2^64).
    """
    if seed is None:
        return None
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be an integer, got {seed!r}") from None
    if not 0 <= number < 1 << 64:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
    return number


def draw_seed(generator: torch.Generator | None = None) -> int:
    """Draw a seed, two 32-bit words, the low one first, from `generator` or torch's default one."""
    with torch_private.untraced() if torch_private.is_traced() else nullcontext():
        if generator is None or generator.device.type == "cpu":
            words = torch_private.words().random_(0, 1 << 32, generator=generator)
        else:
            words = torch.randint(1 << 32, (2,), generator=generator, device=generator.device)
        low, high = words.tolist()
    return int(low | high << 32)
