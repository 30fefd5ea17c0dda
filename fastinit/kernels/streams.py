"""The Philox stream of a name."""

from __future__ import annotations

from hashlib import blake2b

from fastinit.kernels.native import _C


def stream_of(name: str) -> int:
    """Return the 64-bit Philox stream of a name: BLAKE2b of its UTF-8 bytes, little-endian."""
    if _C is not None:
        return int(_C.stream_of(name))
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
