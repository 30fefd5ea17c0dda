"""Writes stream_v1.json: what stream v1 gives, bit by bit. Run as `python
tests/vectors/generate.py`.

The file is the definition of the version: it is written once, and a change of any value in it means
a new stream version, not a new file. The values come from the scalar kernel; the tests compare
every instruction set with them, and them with the float64 oracle. The script refuses to change an
existing file, except that it appends the entries of cases added below.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import oracle
from filling import Rule, bits, dtype_name, filled

FILE = Path(__file__).with_name("stream_v1.json")
COUNT = 10  # elements per entry: more than two blocks, from any alignment

RULES = [
    Rule("constant", (0.1,)),
    Rule("uniform", (0.0, 1.0)),
    Rule("uniform", (-0.03608439182435161, 0.03608439182435161)),
    Rule("uniform", (1.0, 1.015625)),
    Rule("normal", (0.0, 1.0)),
    Rule("normal", (-0.5, 0.02)),
    Rule("trunc_normal", (0.0, 1.0, -2.0, 2.0)),
    Rule("trunc_normal", (0.0, 0.02, -2.0, 2.0)),
    Rule("trunc_normal", (0.0, 1.0, 2.0, 4.0)),
    Rule("trunc_normal", (0.5, 2.0, -inf, -10.0)),
    Rule("trunc_normal", (1.0, 3.0, 0.75, 1.25)),
]
SINGLE, HALF, BFLOAT, DOUBLE = torch.float32, torch.float16, torch.bfloat16, torch.float64
DTYPES = [SINGLE, HALF, BFLOAT, DOUBLE]

# What those do not reach.
EDGES = [
    # the outer pieces of the quantile
    (Rule("trunc_normal", (0.0, 1.0, 10.0, inf)), [SINGLE, HALF, BFLOAT]),
    (Rule("trunc_normal", (0.0, 1.0, -7.5, -6.75)), [SINGLE]),
    (Rule("trunc_normal", (0.0, 1.0, 8.0, 12.0)), [DOUBLE]),
    (Rule("trunc_normal", (0.0, 1.0, 12.0, inf)), [DOUBLE]),
    (Rule("trunc_normal", (0.0, 1.0, 20.0, inf)), [DOUBLE]),
    (Rule("trunc_normal", (0.0, 1.0, -inf, -35.5)), [DOUBLE]),
    # windows of everything and of one number
    (Rule("trunc_normal", (0.0, 1.0, -inf, inf)), [SINGLE, DOUBLE]),
    (Rule("trunc_normal", (0.0, 1.0, 1.5, 1.5)), [SINGLE, DOUBLE]),
    (Rule("uniform", (0.1, 0.1)), [SINGLE, HALF]),
    (Rule("uniform", (1.001, 1.002)), [BFLOAT]),
    # drawn in float32 and rounded since: the upper bound comes out, and infinity
    (Rule("uniform", (1.0, 1.001953125, 1.0)), [HALF]),
    (Rule("uniform", (1.0, 1.015625, 1.0)), [BFLOAT]),
    (Rule("uniform", (0.0, 1e5, 1.0)), [HALF]),
    # zeros of both signs, and below a zero
    (Rule("constant", (-0.0,)), [SINGLE, HALF]),
    (Rule("uniform", (-0.0, -0.0)), [SINGLE, HALF]),
    (Rule("uniform", (-3e-7, 0.0)), [HALF]),
    (Rule("normal", (0.0, 1e-45)), [SINGLE]),
    (Rule("normal", (0.0, 5e-8)), [HALF]),
    # subnormal numbers
    (Rule("uniform", (0.0, 1e-39)), [SINGLE]),
    (Rule("normal", (0.0, 1e-39)), [SINGLE, BFLOAT]),
    (Rule("normal", (0.0, 1e-5)), [HALF]),
    (Rule("normal", (0.0, 1e-309)), [DOUBLE]),
    # infinities
    (Rule("normal", (0.0, 65504.0)), [HALF]),
]

# (seed, parameter name, start). The starts reach odd elements and blocks that need their high word.
PLACES = [
    (0, "weight", 0),
    (1, "layers.0.attention.wq.weight", 3),
    (0x123456789ABCDEF0, "model.embed_tokens.weight", 2**34 + 1),
    (2**64 - 1, "#1/größe.bias@2", 2**40 + 6),
    (2**32, "head.weight", 2**62 + 3),
]
EDGE_PLACES = PLACES[1:3]


def entries() -> Iterator[dict[str, Any]]:
    """Every case with its values, in the order of the file."""
    cases = [(Rule("words"), torch.int32, PLACES)]
    cases += [(rule, dtype, PLACES) for rule in RULES for dtype in DTYPES]
    cases += [(rule, dtype, EDGE_PLACES) for rule, dtypes in EDGES for dtype in dtypes]
    for rule, dtype, places in cases:
        for seed, name, start in places:
            stream = oracle.stream_id(name)
            values = bits(filled(COUNT, dtype, rule, seed, stream, start, isa="scalar"))
            digits = values.dtype.itemsize * 2
            mask = 16**digits - 1
            yield {
                "kind": rule.kind,
                "dtype": "uint32" if rule.kind == "words" else dtype_name(dtype),
                "parameters": [repr(value) for value in rule.parameters],
                "seed": hex(seed),
                "name": name,
                "stream": hex(stream),
                "start": start,
                "values": " ".join(f"{int(value) & mask:0{digits}x}" for value in values),
            }


def main() -> None:
    """Write the file, or append to it; exit with an error if a value in it would change."""
    new = list(entries())
    if FILE.exists():
        old = json.loads(FILE.read_text(encoding="utf-8"))
        missing = [entry for entry in old if entry not in new]
        if missing:
            sys.exit(f"{FILE.name} is frozen, and {len(missing)} of its entries would change")
        new = old + [entry for entry in new if entry not in old]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in new)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
