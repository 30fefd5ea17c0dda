"""Manifests that were altered: each is refused by a ValueError that names the field."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

import fastinit
from fastinit import fused
from fastinit.manifest.read import load

MISSING = object()
OTHERS = [None, 5, -1, 1e400, "x", [1], [None], [[[]]], {}, {"a": 1}, True, MISSING]


def manifest() -> tuple[nn.Module, dict[str, Any]]:
    with fused(seed=1) as plan:
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        model[0].weight.data.normal_().mul_(2.0)
        model[0].weight.data[1].fill_(3.0)
        plan.add_root(model)
    return model, json.loads(plan.to_json())


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in nested lists and objects."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (list, dict)):
            yield from paths(item, (*path, key))


def altered(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    data = copy.deepcopy(data)
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


def test_every_field_with_every_kind_of_value() -> None:
    model, data = manifest()
    refused = 0
    for path in paths(data):
        for value in OTHERS:
            text = json.dumps(altered(data, path, value))
            try:
                fastinit.verify(model, text)
            except (ValueError, KeyError):  # KeyError: a name that the model does not have
                refused += 1
    assert refused > 300


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("tensors",), 5, r"tensors must be a list, got 5"),
        (("tensors", 0), None, r"tensors\[0\] must be an object, got None"),
        (
            ("tensors", 0, "shape", 1),
            -2,
            r"tensors\[0\]\.shape\[1\] must be an integer in .*got -2",
        ),
        (("tensors", 0, "dtype"), "floaty", r"tensors\[0\]\.dtype must be the name of a dtype"),
        (
            ("tensors", 0, "fills", 0, "rule"),
            "gamma",
            r"fills\[0\]\.rule must be one of constant, ",
        ),
        (("tensors", 0, "fills", 0, "seed"), 2**64, r"seed must be an integer in \[0, 2\*\*64\)"),
        (("tensors", 0, "fills", 0, "parameters"), {"b": 1}, r"parameters must be of mean, std"),
        (("format",), 3, "read it with the version that made it"),
    ],
)
def test_the_field_is_named(path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(altered(manifest()[1], path, value))


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "[]", "5", "null", "{"])
def test_what_is_no_manifest(text: str) -> None:
    with pytest.raises(ValueError, match=r"manifest|Expecting"):
        load(text)
