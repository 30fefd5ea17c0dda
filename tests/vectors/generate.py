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
    Rule("trunc_normal", (0.5, 2.0, float("-inf"), -10.0)),
    Rule("trunc_normal", (1.0, 3.0, 0.75, 1.25)),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]

# (seed, parameter name, start). The starts reach odd elements and blocks that need their high word.
PLACES = [
    (0, "weight", 0),
    (1, "layers.0.attention.wq.weight", 3),
    (0x123456789ABCDEF0, "model.embed_tokens.weight", 2**34 + 1),
    (2**64 - 1, "#1/größe.bias@2", 2**40 + 6),
    (2**32, "head.weight", 2**62 + 3),
]


def entries() -> Iterator[dict[str, Any]]:
    """Every case with its values, in the order of the file."""
    cases = [(Rule("words"), torch.int32)]
    cases += [(rule, dtype) for rule in RULES for dtype in DTYPES]
    for rule, dtype in cases:
        for seed, name, start in PLACES:
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
