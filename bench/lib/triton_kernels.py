"""Fills by Triton's own generator of random numbers (Philox)."""

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]

BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def normal(out, n, seed, shift, scale):  # type: ignore[no-untyped-def]
    """Four normals for each lane."""
    first = tl.program_id(0).to(tl.int64) * 4096
    lane = tl.arange(0, 1024)
    a, b, c, d = tl.randn4x(seed, (first // 4 + lane).to(tl.uint32))
    _store(out, n, first + lane, a * scale + shift)
    _store(out, n, first + 1024 + lane, b * scale + shift)
    _store(out, n, first + 2048 + lane, c * scale + shift)
    _store(out, n, first + 3072 + lane, d * scale + shift)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def uniform(out, n, seed, shift, scale):  # type: ignore[no-untyped-def]
    """Four uniforms for each lane."""
    first = tl.program_id(0).to(tl.int64) * 4096
    lane = tl.arange(0, 1024)
    a, b, c, d = tl.rand4x(seed, (first // 4 + lane).to(tl.uint32))
    _store(out, n, first + lane, a * scale + shift)
    _store(out, n, first + 1024 + lane, b * scale + shift)
    _store(out, n, first + 2048 + lane, c * scale + shift)
    _store(out, n, first + 3072 + lane, d * scale + shift)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _store(out, n, at, values):  # type: ignore[no-untyped-def]
    tl.store(out + at, values.to(out.dtype.element_ty), mask=at < n)
