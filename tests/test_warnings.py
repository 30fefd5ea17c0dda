"""Warnings have categories of their own, by which they are silenced."""

from __future__ import annotations

import ast
import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import fastinit
from fastinit import warning

ROOT = Path(fastinit.__file__).parent
OURS = {name for name, value in vars(warning).items() if isinstance(value, type)}
# What torch.nn.init and mmengine warn of is warned of in their categories.
THEIRS = {
    ("init.py", None),
    ("init.py", "FutureWarning"),
    ("kernels/distributions.py", None),
    ("init_cfg/functions.py", "RuntimeWarning"),
}


def test_every_warning_has_a_category_of_ours() -> None:
    found = set()
    for path in ROOT.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "warnings.warn":
                category = ast.unparse(call.args[1]) if len(call.args) > 1 else None
                found.add((path.relative_to(ROOT).as_posix(), category))
    assert {one for one in found if one[1] not in OURS} == THEIRS
    assert {category for _, category in found if category in OURS} == OURS


def test_they_are_exported_and_warnings_of_users() -> None:
    for name in OURS:
        assert getattr(fastinit, name) is getattr(warning, name)
        assert issubclass(getattr(fastinit, name), fastinit.InitWarning)
        assert issubclass(getattr(fastinit, name), UserWarning)
        assert name in fastinit.__all__


def test_silenced_by_name() -> None:
    rule = {"type": "Constant", "layer": "Lniear", "val": 1}
    with pytest.warns(fastinit.UnusedRuleWarning, match="mean 'Linear'"):
        fastinit.initialize(nn.Linear(2, 2), rule)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", fastinit.InitWarning)
        fastinit.initialize(nn.Linear(2, 2), rule)


class Bare(nn.Module):
    """Nothing writes its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3))


class Zeroed(nn.Module):
    """Its constructor writes more than a replay does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        nn.init.zeros_(self.linear.weight)


def on_meta(kind: type[nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return kind()


def test_they_point_at_the_call() -> None:
    kept = [fastinit.build(Zeroed, seed=11)]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", fastinit.InitWarning)
        kept.append(fastinit.build(Zeroed, seed=11))
        with fastinit.fused(seed=11, root=Zeroed()):
            pass
        fastinit.build(Bare, strict=False)
        fastinit.materialize(on_meta(Bare), strict=False)
        fastinit.materialize(on_meta(Zeroed), strict=False)
        fastinit.materialize(copy.deepcopy(on_meta(Zeroed)), strict=False)
        fastinit.materialize(on_meta(Zeroed), seed=11, strict=False)
        with fastinit.fused(root=on_meta(Zeroed)):
            pass
    assert len(found) == 9
    assert {Path(warning.filename) for warning in found} == {Path(__file__)}


def test_fills_of_a_root_on_meta_are_told_to_have_no_effect() -> None:
    model = on_meta(Zeroed)
    text = r"2 tensors of Zeroed are on meta and got no values, linear\.weight first; call to_empty"
    with pytest.warns(fastinit.NotInitializedWarning, match=text), fastinit.fused(root=model):
        nn.init.ones_(model.linear.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fastinit.fused(root=model):  # whose memory comes inside
            model.to_empty(device="cpu")
            nn.init.ones_(model.linear.weight)
    assert bool((model.linear.weight == 1).all())
