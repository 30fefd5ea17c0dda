"""The Philox stream of a name."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b


@lru_cache(maxsize=1 << 16)
def stream_of(name: str) -> int:
    """Return the 64-bit Philox stream of a name: BLAKE2b of its UTF-8 bytes, little-endian."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
