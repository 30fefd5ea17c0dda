"""docs/manifest.schema.json: what plans write fits it, and what does not fit is refused by both."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from torch import nn

import fastinit
from fastinit.kernels import tails
from fastinit.kernels.distributions import DISTRIBUTIONS
from fastinit.manifest.read import load

PATH = Path(__file__).parents[2] / "docs" / "manifest.schema.json"
SCHEMA: dict[str, Any] = json.loads(PATH.read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


@cache
def manifest() -> dict[str, Any]:
    """Every distribution, a part, a tail, a cast, a tie, what is computed, unwritten, unmatched."""
    with fastinit.fused(seed=2**64 - 1) as plan:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Embedding(5, 4, 0))
        model.tied = model[0].weight
        model.unwritten = nn.Parameter(torch.empty(3))
        model.computed = nn.Parameter(torch.arange(3.0))
        model.cast = nn.Parameter(torch.empty(8).uniform_().bfloat16())
        nn.init.trunc_normal_(model[0].weight, std=0.02, a=-0.04, b=float("inf"))
        model[0].bias.data.normal_().mul_(2.0).clamp_(min=-1.0)
        model[2].weight.data[1].fill_(3.0)
        plan.add_root(model)
        rules = [dict(type="Normal", layer="Conv2d"), dict(type="Constant", layer="Linaer", val=1)]
        with pytest.warns(UserWarning, match="Linaer"):
            fastinit.initialize(nn.Linear(2, 2), rules)
    data: dict[str, Any] = json.loads(plan.to_json())
    return data


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    data = copy.deepcopy(manifest())
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_what_plans_write_fits() -> None:
    data = manifest()
    VALIDATOR.validate(data)
    fills = [fill for tensor in data["tensors"] for fill in tensor["fills"]]
    assert {fill["rule"] for fill in fills} == {row.name for row in DISTRIBUTIONS.values()}
    assert {tensor["status"] for tensor in data["tensors"]} == {"filled", "computed", "unwritten"}
    assert any(fill["tail"] for fill in fills)
    assert any(fill["box"] for fill in fills)
    assert any(tensor["aliases"] for tensor in data["tensors"])
    assert any("cast" in fill["parameters"] for fill in fills)


def test_it_says_all_keys_and_names() -> None:
    """A key or name that is new to manifests has to be told here, too."""
    data = manifest()
    parts = SCHEMA["$defs"]
    assert set(SCHEMA["properties"]) == set(data)
    assert set(parts["tensor"]["properties"]) == set(data["tensors"][0])
    filled = next(tensor for tensor in data["tensors"] if tensor["fills"])
    assert set(parts["fill"]["properties"]) == set(filled["fills"][0])
    assert parts["operation"]["prefixItems"][0]["enum"] == sorted(tails.ARGUMENTS)
    for row in DISTRIBUTIONS.values():
        names = parts[row.name]["then"]["properties"]["parameters"]["propertyNames"]["enum"]
        assert names == list(row.arguments)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("stream_version",), 2),
        (("format",), 3),
        (("tensors",), {}),
        (("unmatched",), [1]),
        (("tensors", 0, "name"), None),
        (("tensors", 0, "shape"), [-1]),
        (("tensors", 0, "dtype"), 32),
        (("tensors", 0, "status"), "written"),
        (("tensors", 0, "writes"), 1.5),
        (("tensors", 0, "aliases"), [None]),
        (("tensors", 0, "fills", 0, "rule"), "cauchy"),
        (("tensors", 0, "fills", 0, "parameters"), {"scale": 1.0}),
        (("tensors", 0, "fills", 0, "parameters"), {"a": "0"}),
        (("tensors", 0, "fills", 0, "seed"), 2**64),
        (("tensors", 0, "fills", 0, "start"), -1),
        (("tensors", 0, "fills", 0, "box"), [[1, 2, 3]]),
        (("tensors", 0, "fills", 0, "tail"), [["cos", {}]]),
    ],
    ids=str,
)
def test_what_is_broken_is_refused(path: tuple[str | int, ...], value: object) -> None:
    data = changed(path, value)
    assert not VALIDATOR.is_valid(data)
    with pytest.raises(ValueError, match=r"tensors|unmatched|stream version|format"):
        load(json.dumps(data))
