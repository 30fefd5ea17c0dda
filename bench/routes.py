"""Whether the routes of a real model agree: bit for bit, or refused with a reason, never different.

    python -m bench.routes --only 'timm/vit*' 'torchtitan/*'
    python -m bench.routes --output bench/results/routes.jsonl
    python -m bench.routes --draw bench/results/routes.jsonl docs/routes.md

Every model of the zoo, and of diffusers, mmpretrain and torchtitan, is built with a seed; that is
the model that each route has to give again:

built   build(fn, device="meta"), then materialize
meta    fn() under torch.device("meta"), then materialize, which replays its initialisation
fused   fn(), then init_weights() in fused(root=model): what that writes

The law of a model that `meta` gives is compared with that of stock construction, too.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastinit
from bench.lib import diffusers_models, mmpretrain_models, torchtitan_models, zoo_models
from bench.lib.alike import differences
from bench.lib.timing import machine
from fastinit.models.replay import init_weights_of
from fastinit.tensors.walk import named_tensors, walk

Make = Callable[[], nn.Module]
ROUTES = ("built", "meta", "fused")
SEED = 0


# Libraries whose constructors do not run their models' init_weights.
BY_CALL = ("mmpretrain", "torchtitan")
LIBRARIES: dict[str, Any] = {
    "diffusers": diffusers_models,
    "mmpretrain": mmpretrain_models,
    "timm": zoo_models,
    "torchtitan": torchtitan_models,
    "transformers": zoo_models,
}


def constructors() -> dict[str, Make]:
    """Every model that is tried."""
    found: dict[str, Make] = {}
    for library in dict.fromkeys(LIBRARIES.values()):
        found |= library.constructors()
    return found


def of(name: str) -> Make:
    """Return the constructor of one model."""
    make: Make = LIBRARIES[name.partition("/")[0]].of(name)
    return make


def tried(name: str, make: Make) -> dict[str, str]:
    """Return, by route, "equal", "refused: ...", "different: ..." or "-" where there is none."""
    runs = True if name.partition("/")[0] in BY_CALL else None
    expected = values(fastinit.build(make, seed=SEED, strict=False, init_weights=runs))

    def built() -> nn.Module:
        model = fastinit.build(make, seed=SEED, device="meta", strict=False, init_weights=runs)
        return fastinit.materialize(model)

    def meta() -> nn.Module:
        try:
            with torch.device("meta"):
                model = make()
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(f"materialize: its constructor needs memory ({error})") from error
        fastinit.materialize(model, seed=SEED)
        stock = make()
        if runs:
            init_weights_of(stock)(stock)  # type: ignore[misc]
        if found := differences(stock, model):
            raise AssertionError(f"not stock's law: {found[:5]}")
        return model

    found = {"built": outcome(built, expected), "meta": outcome(meta, expected)}
    is_known = runs or found["meta"] == "equal"  # else a constructor writes besides
    found["fused"] = in_fused(make, expected) if is_known else "-"
    return found


def outcome(route: Callable[[], nn.Module], expected: dict[str, Tensor]) -> str:
    try:
        return compared(values(route()), expected)
    except ValueError as error:
        return f"refused: {error}"
    except AssertionError as error:
        return f"different: {error}"


def in_fused(make: Make, expected: dict[str, Tensor]) -> str:
    """Run `init_weights` over a stock model; compare what it wrote."""
    model = make()
    own = init_weights_of(model)
    if own is None:
        return "-"
    with fastinit.fused(seed=SEED, root=model) as plan, torch.no_grad():
        own(model)
        drawn = {tensor.name for tensor in plan.manifest().tensors if tensor.fills}
    written = {name: tensor for name, tensor in values(model).items() if name in drawn}
    if not written:  # it is marked as initialised
        return "-"
    return compared(written, {name: expected[name] for name in written})


def values(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers."""
    return {name: tensor.detach() for name, tensor in named_tensors(walk(model))}


def compared(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Return "equal", or which tensors differ."""
    if actual.keys() != expected.keys():
        return f"different: names {sorted(actual.keys() ^ expected.keys())[:5]}"
    other = [name for name, tensor in expected.items() if not same_bits(tensor, actual[name])]
    return f"different: {other[:5]} of {len(other)}" if other else "equal"


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN to NaN."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return the page of the results."""
    routes = [r for r in records if r["record"] == "routes"]
    counts = {route: Counter(r[route].split(":")[0] for r in routes) for route in ROUTES}

    def told(answer: str) -> str:
        kind, _, why = answer.partition(": materialize: ")
        return f"{kind}: {why.split(';')[0]}"[:160] if why else kind

    lines = [
        "# Routes of real models",
        "",
        "Generated by `python -m bench.routes` (`make zoo`). Each model is built by",
        "`build(fn, seed=0)`; other routes give it again bit for bit, or are refused by name.",
        "",
        '- **built**: `build(fn, device="meta")`, then `materialize`',
        '- **meta**: `fn()` under `torch.device("meta")`, then `materialize`, whose law is stock',
        "- **fused**: `fn()`, then `init_weights()` in `fused(root=model)`: what that writes",
        "",
        "| | equal | refused | no such route | different |",
        "|---|---|---|---|---|",
        *(
            f"| {route} | {c['equal']} | {c['refused']} | {c['-']} | {c['different']} |"
            for route, c in counts.items()
        ),
        "",
        "| model | built | meta | fused |",
        "|---|---|---|---|",
        *(f"| {r['case']} | " + " | ".join(told(r[x]) for x in ROUTES) + " |" for r in routes),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--output", type=Path, help="write JSON lines here")
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("RESULTS", "PAGE"))
    given = parser.parse_args()
    if given.draw:
        results, page = given.draw
        page.write_text(table([json.loads(line) for line in results.read_text().splitlines()]))
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    found = [{"record": "machine", **machine()}]
    for name, make in constructors().items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in given.only):
            found.append({"record": "routes", "case": name, **tried(name, make)})
            print(json.dumps(found[-1]), flush=True)
    if given.output:
        given.output.write_text("".join(f"{json.dumps(record)}\n" for record in found))
    if any("different" in str(answer) for record in found for answer in record.values()):
        sys.exit("some routes differ")


if __name__ == "__main__":
    main()
