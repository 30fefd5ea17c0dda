"""Behaviour towards users of init_cfg, against mmengine itself, on random trees and init_cfgs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import mmengine.logging
import mmengine.model
import mmengine.model.weight_init
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from torch import nn
from trees import (
    ARGUMENTS,
    FASTINIT,
    LAYERS,
    MMENGINE,
    RANDOM_CODE,
    SEED,
    Kit,
    Node,
    Options,
    Tree,
    cfgs,
    trees,
)

import fastinit

# More than the profile asks of other properties: the space is large.
many = settings(
    max_examples=5 * settings.default.max_examples,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

pytestmark = pytest.mark.filterwarnings("ignore")  # mistakes warn, in both libraries

Files = dict[str, str]


@pytest.fixture(scope="module", autouse=True)
def _mmengine() -> Iterator[None]:
    """mmengine, quiet, and with torch's truncated normal in place of its own older one."""
    mmengine.logging.MMLogger.get_instance("quiet", log_level="CRITICAL")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.model.weight_init, "trunc_normal_", torch.nn.init.trunc_normal_)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Checkpoints whose names and shapes fit some of the layers of a random tree."""
    folder: Path = tmp_path_factory.mktemp("checkpoints")
    SEED(3)

    def entries(prefix: str) -> dict[str, torch.Tensor]:
        places = ["", "c0.", "c1.", "0.", "1.", "c0.c0.", "c0.0.", "0.c0.", "c1.linear.", "c2.c0."]
        shapes = [(2, 3), (3, 2), (3, 2, 3), (3, 2, 2, 2), (3,)]
        found = {}
        for i, place in enumerate(places):
            shape = shapes[i % len(shapes)]
            found[f"{prefix}{place}weight"] = torch.randn(shape)
            found[f"{prefix}{place}bias"] = torch.randn(shape[0])
        return found

    contents = {
        "plain": entries(""),
        "nested": {"state_dict": entries("module."), "meta": {"epoch": 3}},
        "prefixed": {**entries("part."), "other.weight": torch.ones(1)},
    }
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in [*contents, "missing"]}


class Outcome(NamedTuple):
    error: type[BaseException] | None
    tensors: dict[str, bytes]
    flags: dict[str, Any]


def tensors(model: nn.Module) -> dict[str, bytes]:
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: t.detach().numpy().tobytes() for name, t in named}


def flags(model: nn.Module) -> dict[str, Any]:
    return {name: m.is_init for name, m in model.named_modules() if hasattr(m, "is_init")}


def outcome(model: nn.Module, act: Callable[[nn.Module], object]) -> Outcome:
    SEED(5)
    try:
        act(model)
    except Exception as error:
        if str(error).startswith("nothing in "):
            hypothesis.reject()  # a checkpoint of which nothing fits: mmengine only warns
        return Outcome(type(error), tensors(model), flags(model))
    return Outcome(None, tensors(model), flags(model))


def init_weights(model: nn.Module) -> None:
    model.init_weights()  # type: ignore[operator]


@given(tree=trees(Options()))
@many
def test_init_weights_on_torch_is_mmengine(tree: Tree, files: Files) -> None:
    """Every bit, what was written before an error, the error, and who counts as initialised."""
    theirs = outcome(MMENGINE.build(tree, files), init_weights)
    with fastinit.backend("torch"):
        model = FASTINIT.build(tree, files)
        cfg = repr(model.init_cfg)
        ours = outcome(model, init_weights)
    event("raises" if ours.error else "succeeds")
    assert ours == theirs
    assert repr(model.init_cfg) == cfg


@given(tree=trees(Options(mistakes=False)), cfg=cfgs(Options()))
@many
def test_initialize_on_torch_is_mmengine(tree: Tree, cfg: Any, files: Files) -> None:
    theirs, ours = MMENGINE.cfg(cfg, files), FASTINIT.cfg(cfg, files)
    before = repr(ours)
    expected = outcome(
        MMENGINE.build(tree, files), lambda model: mmengine.model.initialize(model, theirs)
    )
    with fastinit.backend("torch"):
        actual = outcome(
            FASTINIT.build(tree, files), lambda model: fastinit.initialize(model, ours)
        )
    assert actual == expected
    assert repr(ours) == before


@given(tree=trees(Options()))
@many
def test_native_raises_the_same(tree: Tree, files: Files) -> None:
    expected = outcome(MMENGINE.build(tree, files), init_weights)
    with fastinit.backend("native"):
        actual = outcome(FASTINIT.build(tree, files), init_weights)
    assert actual.error == expected.error
    if actual.error is None:
        assert actual.flags == expected.flags


@given(tree=trees(Options(user_code=False, unserved=False)))
@many
def test_native_error_changes_nothing(tree: Tree, files: Files) -> None:
    """What users' code computed would stand, so there is none here; loaded checkpoints do not."""
    model = FASTINIT.build(tree, files)
    before = tensors(model), flags(model)
    with fastinit.backend("native"):
        actual = outcome(model, init_weights)
    event("raises" if actual.error else "succeeds")
    if actual.error:
        assert (actual.tensors, actual.flags) == before


DISTINCT = Options(
    types=("Constant", "Constant", "Normal", "Uniform", "TruncNormal", "TestCustom", "Kaiming"),
    layers=tuple(name for name in LAYERS if name not in ("Module", "BatchNorm1d", "LayerNorm")),
    names=("c0", "c1", "linear"),
    mistakes=False,
)


def distinct(tree: Tree) -> Tree:
    """The tree with rules no two of which write the same value or the same mean.

    mmengine sees a write where a mean changes; with such rules that is every write.
    """
    tree = copy.deepcopy(tree)
    numbers = count(1000)

    def visit_rule(rule: Any) -> None:
        if isinstance(rule, list):
            for each in rule:
                visit_rule(each)
        elif isinstance(rule, dict):
            visit_rule(rule.get("override"))
            rule.pop("bias_prob", None)
            if rule.get("type") in ARGUMENTS:
                rule["bias"] = next(numbers)
            if "val" in rule:
                rule["val"] = next(numbers)
            if rule.get("type") == "Normal":
                rule["std"] = 0.5
            if rule.get("type") == "Uniform":
                rule |= {"a": -1, "b": 2}

    def visit(node: Node) -> None:
        visit_rule(node.init_cfg)
        for child in node.children:
            visit(child)

    visit(tree.root)
    return tree


@pytest.fixture(scope="module")
def reports() -> Iterator[list[dict[str, str]]]:
    """What both libraries would log, in the order of the calls."""
    found: list[dict[str, str]] = []

    def theirs(self: Any) -> None:
        entries = self._params_init_info
        found.append({name: entries[p]["init_info"] for name, p in self.named_parameters()})

    def ours(initialization: Any) -> None:
        found.append({name: info for name, _, info in initialization.report()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.model.BaseModule, "_dump_init_info", theirs)
        patch.setattr(fastinit.init_cfg.report, "dump", ours)
        yield found


@pytest.mark.parametrize("backend", ["native", "torch"])
@given(tree=trees(DISTINCT))
@many
def test_provenance_is_mmengines(
    backend: str, tree: Tree, files: Files, reports: list[dict[str, str]]
) -> None:
    tree = distinct(tree)
    theirs = outcome(MMENGINE.build(tree, files), init_weights)
    expected = reports[-1:]
    reports.clear()
    with fastinit.backend(backend):
        ours = outcome(FASTINIT.build(tree, files), init_weights)
    actual = reports[-1:]
    reports.clear()
    event("raises" if ours.error else "succeeds")
    assert ours.error == theirs.error
    if ours.error is None:
        assert actual == expected


CONSTANTS = Options(types=("Constant",), mistakes=False)


@given(tree=trees(CONSTANTS))
@many
def test_constants_on_native_are_mmengines(tree: Tree, files: Files) -> None:
    """With nothing random but what torch itself draws, both backends write the same."""
    deterministic = [code for code in RANDOM_CODE if uses(tree.root, code)] == []
    theirs = outcome(MMENGINE.build(tree, files), init_weights)
    with fastinit.backend("native"):
        ours = outcome(FASTINIT.build(tree, files), init_weights)
    assert ours.error == theirs.error
    if ours.error is None and deterministic:
        assert ours == theirs


def uses(node: Node, code: str) -> bool:
    own = node.kind == "user" and node.user[0] == code
    return own or any(uses(child, code) for child in node.children)


@pytest.mark.parametrize("kit", [MMENGINE, FASTINIT], ids=["mmengine", "fastinit"])
def test_the_trees_reach_both_libraries(kit: Kit) -> None:
    """The kits differ in nothing but the library: a guard for the comparisons above."""
    tree = Tree(Node("block", [Node("linear"), Node("user", user=("none", "BaseModule"))]))
    model = kit.build(tree, {})
    assert isinstance(model, kit.library.BaseModule)
    assert [type(m).__name__ for m in model.modules()] == [
        "Block",
        "Linear",
        "User",
        "Linear",
        "BatchNorm1d",
    ]


@pytest.mark.parametrize("kind", ["Xavier", "Kaiming", "Caffe2Xavier"])
def test_dtypes_that_only_torch_fills_have_the_law(kind: str) -> None:
    found = []
    for library, backend in ((mmengine.model, "torch"), (fastinit, "native")):
        torch.manual_seed(0)
        layer = nn.Linear(90, 70, dtype=torch.complex64)
        with fastinit.backend(backend):
            library.initialize(layer, {"type": kind, "layer": "Linear"})
        assert not layer.bias.any()
        found += [layer.weight.real.std(), layer.weight.imag.std()]
    for std in found[2:]:
        assert float(std / found[0]) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("layer", ["Linear", "BatchNorm1d", "Conv1d", [1, "Linear"], [nn.Linear]])
@pytest.mark.parametrize(
    "rule",
    [
        {"type": "TruncNormal", "std": "wide"},
        {"type": "TruncNormal", "a": None},
        {"type": "Normal", "mean": "high"},
        {"type": "Uniform", "a": "low"},
        {"type": "Constant", "val": "much"},
        {"type": "Xavier", "distribution": []},
        {"type": "Kaiming", "a": "steep", "nonlinearity": "leaky_relu"},
        {"type": "Normal", "std": "wide"},
    ],
    ids=str,
)
def test_arguments_are_looked_at_by_the_layers_that_are_written(
    rule: dict[str, Any], layer: Any
) -> None:
    """No layer (Linear, or no name at all), one without a weight (BatchNorm1d), one written."""

    def build(base: type) -> nn.Module:
        model: nn.Module = base({**rule, "layer": layer})
        model.norm = nn.BatchNorm1d(3, affine=False)
        model.conv = nn.Conv1d(3, 2, 3)
        return model

    expected = outcome(build(mmengine.model.BaseModule), init_weights)
    for name in ("native", "torch"):
        with fastinit.backend(name):
            assert outcome(build(fastinit.BaseModule), init_weights).error == expected.error
