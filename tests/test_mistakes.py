"""Likely mistakes: each is told by what it is about, what was found, and what would help."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fastinit
from fastinit import BaseModule, Sequential, build, init, initialize, materialize

Call = Callable[[], object]


def linear() -> nn.Linear:
    return nn.Linear(2, 2)


class Net(BaseModule):
    def __init__(self, cfg: Any = None) -> None:
        super().__init__(cfg)
        self.linear, self.norm = linear(), nn.LayerNorm(2)


class Outer(BaseModule):
    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.child = Net(cfg)


class Plain(nn.Module):
    """Which nobody asks for an init_cfg."""

    def __init__(self) -> None:
        super().__init__()
        self.init_cfg = {"type": "Normal", "layer": "Linear"}
        self.linear = linear()


def rule(**given: Any) -> Call:
    return lambda: initialize(linear(), given)


def cfg(value: Any) -> Call:
    return lambda: Net(value).init_weights()


def grouped(groups: Any) -> Call:
    def call() -> None:
        with fastinit.fan_groups(groups):
            initialize(linear(), {"type": "Xavier", "layer": "Linear"})

    return call


def manifest() -> str:
    with fastinit.fused(seed=0) as plan:
        build(lambda: nn.Sequential(linear()))
    return plan.to_json()


def written(tmp_path: Path, name: str, content: bytes) -> str:
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


def checkpoint(content: Any, **given: Any) -> Call:
    """A rule that loads a file of this content, in the test's folder."""

    def call() -> None:
        if isinstance(content, bytes):
            Path("a.pth").write_bytes(content)
        elif content is not None:
            torch.save(content, "a.pth")
        rule(**{"type": "Pretrained", "checkpoint": "a.pth", **given})()

    return call


WEIGHT = {"weight": torch.ones(2, 2)}

# (what is done, the error, what its message tells)
ERRORS: dict[str, tuple[Call, type[BaseException], tuple[str, ...]]] = {
    # --- types and arguments
    "type misspelt": (
        rule(type="Kaming", layer="Linear"),
        KeyError,
        ("'Kaming'", "did you mean 'Kaiming'", "Registered are"),
    ),
    "type in another case": (
        rule(type="normal", layer="Linear"),
        KeyError,
        ("'normal'", "did you mean 'Normal'"),
    ),
    "type of mmengine misspelt": (
        rule(type="mmengine.Kaming", layer="Linear"),
        KeyError,
        ("mmengine.Kaming", "did you mean 'Kaiming'?"),
    ),
    "no type": (rule(layer="Linear"), KeyError, ("{'layer': 'Linear'}", "needs the key 'type'")),
    "type is a number": (rule(type=3), TypeError, ("'type' must be a registered name", "3")),
    "argument misspelt": (
        rule(type="Normal", layer="Linear", sdt=0.1),
        TypeError,
        ("Normal takes no 'sdt'; did you mean 'std'?", "It takes mean, std, bias"),
    ),
    "argument of another type": (
        rule(type="Normal", layer="Linear", gain=2),
        TypeError,
        ("Normal takes no 'gain'", "It takes mean, std, bias"),
    ),
    "argument missing": (rule(type="Constant", layer="Linear"), TypeError, ("'val'", "Constant")),
    "layer is a class": (
        rule(type="Constant", val=1, layer=nn.Linear),
        TypeError,
        ("layer must be a class name", "write 'Linear'"),
    ),
    "std is a str": (
        rule(type="Normal", layer="Linear", std="0.01"),
        TypeError,
        ("std=0.01", "Linear", "must be float, not str"),
    ),
    "std is negative": (
        rule(type="Normal", layer="Linear", std=-1.0),
        RuntimeError,
        ("std=-1.0", "shape (2, 2)", "std >= 0.0"),
    ),
    "bias is a str": (
        rule(type="Normal", layer="Linear", bias="0"),
        TypeError,
        ("bias must be a number, got '0'",),
    ),
    "bias and bias_prob": (
        rule(type="Normal", layer="Linear", bias={"type": "Normal"}, bias_prob=0.1),
        ValueError,
        ("bias_prob=0.1, not both",),
    ),
    "bias_prob is a str": (
        rule(type="Normal", layer="Linear", bias_prob="0.1"),
        TypeError,
        ("bias_prob must be a float between 0 and 1, got '0.1'",),
    ),
    "bias_prob is 0": (
        rule(type="Normal", layer="Linear", bias_prob=0.0),
        ZeroDivisionError,
        ("must be between 0 and 1, got 0",),
    ),
    "uniform the wrong way round": (
        rule(type="Uniform", layer="Linear", a=1, b=-1),
        RuntimeError,
        ("a=1, b=-1", "from=1 > to=-1"),
    ),
    "truncated the wrong way round": (
        rule(type="TruncNormal", layer="Linear", a=1, b=-1),
        RuntimeError,
        ("a must not exceed b, got a=1 and b=-1",),
    ),
    "truncated without a spread": (
        rule(type="TruncNormal", layer="Linear", std=0),
        ZeroDivisionError,
        ("std must be positive, got 0",),
    ),
    "distribution": (
        rule(type="Xavier", layer="Linear", distribution="gauss"),
        AssertionError,
        ("must be one of 'uniform', 'normal', got 'gauss'",),
    ),
    "mode": (
        rule(type="Kaiming", layer="Linear", mode="fanin"),
        ValueError,
        ("fanin not supported", "['fan_in', 'fan_out']"),
    ),
    "fan_mode": (
        rule(type="Kaiming", layer="Linear", fan_mode="groups"),
        ValueError,
        ("fan_mode must be 'torch' or 'effective', got 'groups'",),
    ),
    "nonlinearity": (
        rule(type="Kaiming", layer="Linear", nonlinearity="gelu"),
        ValueError,
        ("Unsupported nonlinearity gelu", "'relu', 'leaky_relu', 'selu'"),
    ),
    "a law of fans on a vector": (
        lambda: initialize(nn.LayerNorm(3), {"type": "Kaiming", "layer": "LayerNorm"}),
        ValueError,
        ("LayerNorm", "shape (3,)", "fewer than 2 dimensions", "narrow 'layer'"),
    ),
    "params and layer": (
        rule(type="Constant", val=1, params="weight", layer="Linear"),
        ValueError,
        ("params='weight'", "excludes layer", "write two rules"),
    ),
    # --- overrides and configs
    "override misspelt": (
        cfg({"type": "Constant", "val": 1, "override": {"name": "lienar"}}),
        RuntimeError,
        ("Net has no 'lienar'", "did you mean 'linear'?", "'linear', 'norm'"),
    ),
    "override without a name": (
        cfg({"type": "Constant", "val": 1, "override": {"type": "Constant", "val": 2}}),
        ValueError,
        ("needs the key 'name', that of a child module",),
    ),
    "override is a str": (
        cfg({"type": "Constant", "val": 1, "override": "linear"}),
        TypeError,
        ("override", "'linear'"),
    ),
    "init_cfg is a str": (
        cfg("Normal"),
        AssertionError,
        ("init_cfg of Net", "got 'Normal'", "write dict(type='Normal'"),
    ),
    "init_cfg holds a str": (cfg(["Normal"]), AssertionError, ("of Net", "it holds 'Normal'")),
    "init_cfg is a number": (cfg(3), TypeError, ("init_cfg of Net", "a dict or a list, got 3")),
    "a child's type misspelt": (
        lambda: Outer({"type": "Nromal", "layer": "Linear"}).init_weights(),
        KeyError,
        ("'Nromal'", "did you mean 'Normal'", "{'type': 'Nromal', 'layer': 'Linear'}"),
    ),
    "initialize nothing": (
        lambda: initialize(None, {"type": "Normal", "layer": "Linear"}),  # type: ignore[arg-type]
        AttributeError,
        ("initializes modules, not a NoneType",),
    ),
    "initialize a parameter": (
        lambda: initialize(linear().weight, {"type": "Normal", "layer": "Linear"}),  # type: ignore[arg-type]
        AttributeError,
        ("modules, not a Parameter", "fastinit.init's function"),
    ),
    # --- functions
    "a module in place of a tensor": (
        lambda: init.normal_(linear()),  # type: ignore[arg-type]
        AttributeError,
        ("normal_: tensor must be a torch.Tensor, got a Linear", "its .weight?"),
    ),
    "a bias that is not there": (
        lambda: init.zeros_(nn.Linear(2, 2, bias=False).bias),
        AttributeError,
        ("zeros_", "got None (a layer without a bias has none)"),
    ),
    "an array": (
        lambda: init.uniform_(np.zeros(3)),  # type: ignore[arg-type]
        AttributeError,
        ("uniform_: tensor must be a torch.Tensor, got a ndarray",),
    ),
    "fans of a vector": (
        lambda: init.kaiming_normal_(torch.zeros(3)),
        ValueError,
        ("fewer than 2 dimensions", "(3,)"),
    ),
    "a function misspelt": (
        lambda: init.kaming_normal_,
        AttributeError,
        ("fastinit.init has no 'kaming_normal_'", "did you mean 'kaiming_normal_'?"),
    ),
    "backend": (
        lambda: fastinit.backend("cuda"),  # type: ignore[arg-type]
        ValueError,
        ("backend must be one of 'auto', 'native', 'torch', got 'cuda'",),
    ),
    # --- checkpoints
    "checkpoint is None": (
        rule(type="Pretrained", checkpoint=None),
        TypeError,
        ("checkpoint must be a path or a URL, got None",),
    ),
    "checkpoint misspelt": (
        checkpoint(WEIGHT, checkpoint="b.pth"),
        FileNotFoundError,
        ("'b.pth'", "did you mean 'a.pth'?"),
    ),
    "checkpoint of git-lfs": (
        checkpoint(b"version https://git-lfs.github.com/spec/v1\n"),
        RuntimeError,
        ("'a.pth' is no checkpoint", "git lfs pull"),
    ),
    "checkpoint is a page": (
        checkpoint(b"<!DOCTYPE html><html>"),
        RuntimeError,
        ("'a.pth' is no checkpoint", "a page of HTML", "download it again"),
    ),
    "checkpoint is empty": (checkpoint(b""), RuntimeError, ("'a.pth'", "it is empty")),
    "checkpoint is packed": (
        checkpoint(b"\x1f\x8b\x08\x00"),
        RuntimeError,
        ("packed by gzip; unpack it",),
    ),
    "prefix": (
        checkpoint(WEIGHT, prefix="backbone"),
        AssertionError,
        ("'backbone.'", "its names begin with 'weight'"),
    ),
    "nothing fits": (
        checkpoint({"x.weight": torch.ones(2, 2)}),
        RuntimeError,
        ("it has 'x.weight', the model 'weight', 'bias'", "with prefix='x' they would fit"),
    ),
    "key": (
        checkpoint({"model": WEIGHT}, key="ema"),
        KeyError,
        ("no weights under key='ema'; it has 'model'",),
    ),
    "an option misspelt": (
        checkpoint(WEIGHT, strictt=True),
        TypeError,
        ("'strictt'; did you mean 'strict'?", "It takes key, revise_keys"),
    ),
    "something is missing": (
        checkpoint(WEIGHT, strict=True),
        RuntimeError,
        ("a.pth does not fit Linear exactly", "not in the checkpoint: bias"),
    ),
    "revise_keys": (
        checkpoint(WEIGHT, revise_keys=("^a", "")),
        ValueError,
        ("revise_keys=('^a', '')", "give pairs of a regular expression"),
    ),
    "scheme": (
        rule(type="Pretrained", checkpoint="htp://x/a.pth"),
        ValueError,
        ("htp://", "known are file://, http://"),
    ),
    # --- building
    "build a model that exists": (
        lambda: build(linear()),  # type: ignore[arg-type]
        TypeError,
        ("a Linear that exists; write build(lambda: Linear(...))",),
    ),
    "build of a tuple": (
        lambda: build(lambda: (linear(), 1)),  # type: ignore[arg-type, return-value]
        TypeError,
        ("must return a module, it returned a tuple of Linear, int",),
    ),
    "build with arguments": (
        lambda: build(nn.Linear),  # type: ignore[arg-type]
        TypeError,
        ("called without arguments, and Linear needs some", "'in_features'"),
    ),
    "device misspelt": (
        lambda: build(linear, device="gpu"),
        ValueError,
        ("device must be a device of torch, such as 'cpu' or 'cuda:0', got 'gpu'",),
    ),
    "dtype is a str": (
        lambda: build(linear, dtype="bfloat16"),  # type: ignore[arg-type]
        TypeError,
        ("dtype must be a torch.dtype, got 'bfloat16'; did you mean torch.bfloat16?",),
    ),
    "dtype of integers": (
        lambda: build(linear, dtype=torch.int8),
        TypeError,
        ("must be one of floating point, got torch.int8",),
    ),
    "seed is negative": (
        lambda: build(linear, seed=-1),
        ValueError,
        ("seed must be in [0, 2**64), got -1",),
    ),
    "seed is a fraction": (
        lambda: build(linear, seed=1.5),  # type: ignore[arg-type]
        TypeError,
        ("seed must be an integer, got 1.5",),
    ),
    "nobody writes a parameter": (
        lambda: build(lambda: nn.ParameterList([nn.Parameter(torch.empty(3))])),
        ValueError,
        ("nobody wrote all of 0 (3,)", "strict=False"),
    ),
    "materialize a function": (
        lambda: materialize(linear),  # type: ignore[type-var]
        TypeError,
        ("model must be a module, got a class or function; build(fn, device='meta')",),
    ),
    "materialize on meta": (
        lambda: materialize(nn.Linear(2, 2, device="meta"), device="meta"),
        ValueError,
        ("device must have memory, got 'meta'",),
    ),
    "materialize what nothing writes": (
        lambda: materialize(nn.ParameterList([nn.Parameter(torch.empty(3, device="meta"))])),
        ValueError,
        ("nothing writes 0 (3,)", "pass strict=False"),
    ),
    # --- manifests
    "a manifest's path": (
        lambda: fastinit.verify(linear(), "man.json"),
        ValueError,
        ("'man.json' is no JSON", "Path(...).read_text()"),
    ),
    "verify the wrong way round": (
        lambda: fastinit.verify(manifest(), linear()),  # type: ignore[arg-type]
        TypeError,
        ("model must be a module, got a str; the manifest is the second argument",),
    ),
    "a tensor misspelt": (
        lambda: fastinit.regenerate(manifest(), "0.wieght"),
        KeyError,
        ("no tensor '0.wieght'; did you mean '0.weight'?",),
    ),
    # --- fan groups
    "groups that do not sum up": (
        grouped({"weight": [1, 2]}),
        ValueError,
        ("[1, 2] does not divide the 2 rows of weight",),
    ),
    "groups that are negative": (grouped({"weight": [3, -1]}), ValueError, ("weight", "-1")),
    "groups that are a list": (grouped(["weight"]), TypeError, ("fan_groups", "['weight']")),
}
WARNINGS: dict[str, tuple[Call, type[Warning], tuple[str, ...]]] = {
    "layer misspelt": (
        rule(type="Constant", val=1, layer="Lniear"),
        fastinit.UnusedRuleWarning,
        ("'Lniear'", "did you mean 'Linear'?"),
    ),
    "layer in another case": (
        rule(type="Constant", val=1, layer="conv2D"),
        fastinit.UnusedRuleWarning,
        ("'conv2D'", "did you mean 'Conv2d'?"),
    ),
    "a class among layers": (
        rule(type="Constant", val=1, layer=["Conv2d", nn.Linear]),
        fastinit.UnusedRuleWarning,
        ("write 'Linear', the name of the class",),
    ),
    "params misspelt": (
        rule(type="Constant", val=1, params="*.wieght"),
        fastinit.UnusedRuleWarning,
        ("'*.wieght'", "matches no parameter; nearest: 'weight'"),
    ),
    "a rule for nothing": (
        rule(type="Constant", val=1),
        fastinit.UnusedRuleWarning,
        ("writes nothing: give it layer=, params= or override=",),
    ),
    "override of what has no parameters": (
        lambda: initialize(
            nn.Sequential(nn.ReLU()), {"type": "Constant", "val": 1, "override": {"name": "0"}}
        ),
        fastinit.UnusedRuleWarning,
        ("'0' of Sequential has no parameters",),
    ),
    "behind a plain Sequential": (
        lambda: Sequential(
            nn.Sequential(Net({"type": "Constant", "layer": "Linear", "val": 1}))
        ).init_weights(),
        fastinit.NotInitializedWarning,
        ("init_cfg of 0.0 was not applied", "use fastinit.Sequential"),
    ),
    "init_cfg of a plain module": (
        lambda: Sequential(Plain()).init_weights(),
        fastinit.NotInitializedWarning,
        ("init_cfg of 0 was not applied", "a Plain is no BaseModule"),
    ),
    "build without init_weights": (
        lambda: build(Net),
        fastinit.NotInitializedWarning,
        ("Net has init_weights, and nothing has run it; pass init_weights=True",),
    ),
    "materialize what has memory": (
        lambda: materialize(linear(), seed=0),
        fastinit.NotInitializedWarning,
        ("no tensor of Linear is on meta, so nothing was done",),
    ),
    "verify another model": (
        lambda: fastinit.verify(nn.ModuleDict({"a": linear()}), manifest()),
        fastinit.InitWarning,
        ("none of the model's 2 names: it has 0.weight", "the model a.weight"),
    ),
    "groups misspelt": (
        grouped({"*.qvk.weight": [1, 1]}),
        fastinit.UnusedRuleWarning,
        ("'*.qvk.weight' matched no parameter", "nearest: 'weight'"),
    ),
}


@pytest.mark.parametrize("mistake", ERRORS)
def test_errors(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, kind, told = ERRORS[mistake]
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    for text in told:
        assert text in str(caught.value), str(caught.value)


@pytest.mark.parametrize("mistake", WARNINGS)
def test_warnings(mistake: str) -> None:
    call, kind, told = WARNINGS[mistake]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    messages = [str(w.message) for w in caught if w.category is kind]
    assert len(messages) == 1, "once, and in its category"
    for text in told:
        assert text in messages[0]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are of Python 3.11")
def test_errors_name_the_module_whose_rule_it_is(backend: str) -> None:
    right = {"type": "Normal", "layer": "Linear"}
    for value in ({**right, "type": "Nromal"}, {**right, "std": "1"}):
        with pytest.raises((KeyError, TypeError)) as caught:
            Sequential(Outer(None), Outer(value)).init_weights()
        (note,) = caught.value.__notes__
        assert note == "in the init_cfg of '1.child', a Net, of Sequential"
    with pytest.raises(KeyError) as caught:
        Net({"type": "Nromal"}).init_weights()
    assert not hasattr(caught.value, "__notes__"), "there is one module only"


def test_there_are_enough_of_them() -> None:
    assert len(ERRORS) + len(WARNINGS) >= 60


@pytest.mark.parametrize("mistake", [m for m in ERRORS if "rule.<locals>" in repr(ERRORS[m][0])])
def test_the_model_stays_as_it_was(mistake: str, tmp_path: Path) -> None:
    """Of those that are rules: what they would write is not written in part."""
    call, kind, _ = ERRORS[mistake]
    given = call.__closure__[0].cell_contents  # type: ignore[attr-defined]
    layer = linear()
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    with pytest.raises(kind):
        initialize(layer, given)
    assert torch.equal(layer.weight, before[0])
    assert torch.equal(layer.bias, before[1])
