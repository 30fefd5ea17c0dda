"""A model of 405 B parameters on 1 024 ranks, on paper: which rank holds what, and what it costs.

    python -m bench.shards

Nothing is allocated. The shapes are those of Llama 3.1 405 B, laid out by FSDP2 (128 ranks) over
tensor parallelism (8). For every parameter the shards of all ranks are checked to tile it, each
element in one block (or, replicated over tensor parallelism, in the same block eight times); and
for some ranks it is timed how long planning all fills of their shards takes.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, product

import torch
from torch.distributed.tensor.placement_types import Placement, Replicate, Shard, _StridedShard

from fastinit.kernels import distributions
from fastinit.manifest.manifest import Drawn, Written
from fastinit.manifest.regenerate import steps
from fastinit.tensors.shards import bounds

MESH = (128, 8)  # FSDP, tensor parallelism
LAYERS, HIDDEN, FFN, VOCABULARY, KEY_VALUE = 126, 16384, 53248, 128256, 1024
COLUMN = (_StridedShard(0, split_factor=MESH[1]), Shard(0))  # torch's ColwiseParallel under FSDP2
ROW = (Shard(0), Shard(1))
WHOLE = (Shard(0), Replicate())

Placements = tuple[Placement, Placement]
Block = tuple[tuple[int, ...], tuple[int, ...]]  # multi-index of the first element, shape


def parameters() -> Iterator[tuple[str, tuple[int, ...], Placements]]:
    """(name, shape, placements) of every parameter."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN), COLUMN
    for n in range(LAYERS):
        layer = f"model.layers.{n}"
        for name, size in (("q", HIDDEN), ("k", KEY_VALUE), ("v", KEY_VALUE)):
            yield f"{layer}.self_attn.{name}_proj.weight", (size, HIDDEN), COLUMN
        yield f"{layer}.self_attn.o_proj.weight", (HIDDEN, HIDDEN), ROW
        for name in ("gate", "up"):
            yield f"{layer}.mlp.{name}_proj.weight", (FFN, HIDDEN), COLUMN
        yield f"{layer}.mlp.down_proj.weight", (HIDDEN, FFN), ROW
        for name in ("input", "post_attention"):
            yield f"{layer}.{name}_layernorm.weight", (HIDDEN,), WHOLE
    yield "model.norm.weight", (HIDDEN,), WHOLE
    yield "lm_head.weight", (VOCABULARY, HIDDEN), COLUMN


def require_tiled(shape: tuple[int, ...], placements: Placements, mesh: tuple[int, ...]) -> None:
    """Check that the blocks of all ranks tile a parameter.

    Raises:
        AssertionError: they do not.
    """
    copies = math.prod(
        size for size, where in zip(mesh, placements, strict=True) if isinstance(where, Replicate)
    )
    blocks: Counter[Block] = Counter(
        bounds(shape, mesh, here, placements) for here in product(*map(range, mesh))
    )
    blocks = Counter({block: n for block, n in blocks.items() if 0 not in block[1]})
    assert set(blocks.values()) == {copies}
    assert sum(math.prod(size) for _, size in blocks) == math.prod(shape)
    # Blocks of a grid: disjoint if the intervals along each dimension are the same or apart.
    for d in range(len(shape)):
        intervals = sorted({(first[d], first[d] + size[d]) for first, size in blocks})
        assert intervals[0][0] == 0
        assert intervals[-1][1] == shape[d]
        assert all(a[1] == b[0] for a, b in pairwise(intervals))


def planned(rank: int) -> tuple[int, int]:
    """(rows of the kernels' table, elements) that a rank would fill."""
    here = divmod(rank, MESH[1])
    count = elements = 0
    for name, shape, placements in parameters():
        first, length = bounds(shape, MESH, here, placements)
        local = torch.empty(length, dtype=torch.bfloat16, device="meta")
        drawn = Drawn.of(distributions.NORMAL, (0.0, 0.02, 0.0, 0.0), name, 0, "")
        written = Written(name, shape, "bfloat16", "filled", (drawn,))
        count += sum(1 for _ in steps(local, written, first))
        elements += local.numel()
    return count, elements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=5, help="how many to time (default: 5)")
    count = parser.parse_args().ranks
    total = sum(math.prod(shape) for _, shape, _ in parameters())
    begin = time.perf_counter()
    kinds = {(shape, placements) for _, shape, placements in parameters()}
    for shape, placements in kinds:
        require_tiled(shape, placements, MESH)
    print(
        f"{total / 1e9:.1f} B parameters, {len(kinds)} kinds: the shards of {math.prod(MESH)} "
        f"ranks tile each (checked in {time.perf_counter() - begin:.1f} s)"
    )
    times = []
    for n in range(count):
        begin = time.perf_counter()
        rows, elements = planned(n * math.prod(MESH) // count)
        times.append(time.perf_counter() - begin)
    print(
        f"planning {rows} fills of {elements / 1e6:.0f} M elements on a rank: "
        f"{statistics.median(times) * 1e3:.0f} ms "
        f"({min(times) * 1e3:.0f} to {max(times) * 1e3:.0f})"
    )


if __name__ == "__main__":
    main()
