"""mmengine's own init_weights: stock, and with fastinit.integrations.mmengine, by turns.

    python -m bench.seam
    python -m bench.seam --rounds 5 --output bench/results/seam.jsonl

The models are mmpretrain's, unmodified, and warm: each call initialises the same model again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fastinit
from bench.lib import mmpretrain_models
from bench.lib.timing import alternate, emit, machine
from fastinit.integrations import mmengine as seam

CASES: dict[str, dict[str, Any]] = {
    "ResNet-50": {"type": "ResNet", "depth": 50},
    "ViT-L": {"type": "VisionTransformer", "arch": "l", "patch_size": 16},
}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Return the JSON record of one model."""
    model: Any = mmpretrain_models.maker(CASES[name])()
    parameters = list(model.parameters())

    def again() -> None:
        for module in model.modules():
            if hasattr(module, "is_init"):
                module.is_init = False
        model.init_weights()

    def stock() -> None:
        with fastinit.backend("torch"):  # mmengine's code as it is
            again()

    with seam.install():
        again()
        times = alternate({"stock": stock, "installed": again}, rounds=rounds)
    theirs, ours = times["stock"], times["installed"]
    ratios = [a / b for a, b in zip(theirs.seconds, ours.seconds, strict=True)]
    return {
        "record": "seam",
        "case": name,
        "tensors": len(parameters),
        "values": sum(p.numel() for p in parameters),
        "ratio": theirs.over(ours),
        "spread": (min(ratios), max(ratios)),
        "competitors": {competitor: t.summary() for competitor, t in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="file for the JSON lines")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with ExitStack() as stack:
        stream = stack.enter_context(given.output.open("w")) if given.output else sys.stdout
        emit({"record": "machine", **machine()}, stream)
        for name in CASES:
            emit(measure(name, given.rounds), stream)


if __name__ == "__main__":
    main()
