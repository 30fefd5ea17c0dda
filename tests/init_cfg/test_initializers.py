"""The initializers, and `initialize` with its overrides."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import mmengine.model
import pytest
from modules import constants, copied, same
from torch import nn

import fastinit
from fastinit import (
    BaseInit,
    BaseModule,
    Caffe2XavierInit,
    ConstantInit,
    KaimingInit,
    NormalInit,
    PretrainedInit,
    TruncNormalInit,
    UniformInit,
    XavierInit,
    initialize,
    update_init_info,
)


class Net(nn.Module):
    """Layers of several classes; `deep` is one level further down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(6, 5)
        self.norm = nn.BatchNorm2d(4)
        self.deep = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Conv1d(2, 3, 3))


@pytest.fixture
def net() -> Net:
    return Net()


INITIALIZERS = [
    "BaseInit",
    "ConstantInit",
    "XavierInit",
    "NormalInit",
    "TruncNormalInit",
    "UniformInit",
    "KaimingInit",
    "Caffe2XavierInit",
    "PretrainedInit",
]
FUNCTIONS = [
    "constant_init",
    "xavier_init",
    "normal_init",
    "trunc_normal_init",
    "uniform_init",
    "kaiming_init",
    "caffe2_xavier_init",
    "bias_init_with_prob",
    "initialize",
    "update_init_info",
]


@pytest.mark.parametrize("name", INITIALIZERS + FUNCTIONS)
def test_signatures_are_mmengines(name: str) -> None:
    def arguments(library: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(getattr(library, name)).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    ours, theirs = arguments(fastinit), arguments(mmengine.model)
    assert ours[: len(theirs)] == theirs
    added = ours[len(theirs) :]  # which no config of mmengine's contains
    by_name = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    assert {kind for _, kind, _ in added} <= by_name
    known = {"params", "recurrent", "forget_bias", "keep_padding", "options"}
    assert {name for name, _, _ in added} <= known


@pytest.mark.parametrize(
    ("initializer", "text"),
    [
        (BaseInit(bias=2), "BaseInit, bias=2"),
        (ConstantInit(1), "ConstantInit: val=1, bias=0"),
        (XavierInit(), "XavierInit: gain=1, distribution=normal, bias=0"),
        (NormalInit(std=0.5, bias=1), "NormalInit: mean=0, std=0.5, bias=1"),
        (TruncNormalInit(), "TruncNormalInit: a=-2, b=2, mean=0, std=1, bias=0"),
        (UniformInit(), "UniformInit: a=0, b=1, bias=0"),
        (
            KaimingInit(),
            "KaimingInit: a=0, mode=fan_out, nonlinearity=relu, distribution =normal, bias=0",
        ),
        (
            Caffe2XavierInit(),
            "Caffe2XavierInit: a=1, mode=fan_in, nonlinearity=leaky_relu, "
            "distribution =uniform, bias=0",
        ),
        (PretrainedInit("a.pth"), "PretrainedInit: load from a.pth"),
    ],
    ids=INITIALIZERS,
)
def test_texts(initializer: Any, text: str) -> None:
    assert initializer._get_init_info() == text


class TestLayer:
    """Which layers a rule writes: its class name and the names of direct base classes."""

    @pytest.mark.parametrize(
        ("layer", "written"),
        [
            ("Linear", ["deep.0", "linear"]),
            (["Linear"], ["deep.0", "linear"]),
            (["Conv2d", "BatchNorm2d"], ["conv", "norm"]),
            ("_ConvNd", ["conv", "deep.2"]),
            ("_BatchNorm", ["norm"]),
            ("Module", ["deep.0", "linear"]),  # a direct base of Linear, not of Conv2d
            ("Nothing", []),
            ("linear", []),
            ("", []),
        ],
    )
    def test_matches(self, net: Net, layer: Any, written: list[str]) -> None:
        ConstantInit(7, bias=7, layer=layer)(net)
        found = {name.rpartition(".")[0] for name, v in constants(net).items() if v == 7}
        assert sorted(found) == written

    def test_the_module_itself_counts(self) -> None:
        linear = nn.Linear(2, 2)
        ConstantInit(7, bias=8, layer="Linear")(linear)
        assert constants(linear) == {"weight": 7, "bias": 8}

    def test_wholemodule_ignores_it(self, net: Net) -> None:
        initializer = ConstantInit(7, bias=8)
        initializer.wholemodule = True
        initializer(net)
        assert set(constants(net).values()) == {7, 8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bias": "1"}, "bias must be a number, got '1'"),
        ({"bias": None}, "bias must be a number, got None"),
        ({"bias_prob": 1}, "bias_prob must be a float between 0 and 1, got 1"),
        (
            {"layer": ("Linear",)},
            r"layer must be a class name or a list of them, got \('Linear',\)",
        ),
        ({"bias": "1", "bias_prob": 1, "layer": 1}, "bias must be"),
        ({"bias_prob": 1, "layer": 1}, "bias_prob must be"),
        ({"layers": "Linear"}, "unexpected keyword argument 'layers'"),
    ],
)
def test_refused_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        NormalInit(**arguments)


class TestInitialize:
    def test_later_rules_win(self, net: Net) -> None:
        one = {"type": "Constant", "val": 1, "bias": 2, "layer": ["Linear", "Conv2d"]}
        two = {"type": "Constant", "val": 3, "bias": 4, "layer": "Linear"}
        initialize(net, [one, two])
        found = constants(net)
        assert (found["conv.weight"], found["conv.bias"]) == (1, 2)
        assert (found["linear.weight"], found["linear.bias"]) == (3, 4)

    def test_override_by_name_takes_the_rule_over(self, net: Net) -> None:
        override = {"name": "deep"}
        initialize(
            net, {"type": "Constant", "val": 1, "bias": 2, "layer": "Norm", "override": override}
        )
        found = constants(net)
        assert [found[f"deep.{name}"] for name in ("0.weight", "2.weight", "2.bias")] == [1, 1, 2]
        assert found["linear.weight"] is None

    def test_override_without_layer_on_the_rule(self, net: Net) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            initialize(net, {"type": "Constant", "val": 1, "override": {"name": "conv"}})
        assert constants(net)["conv.weight"] == 1
        assert constants(net)["linear.weight"] is None

    def test_override_with_a_rule_of_its_own(self, net: Net) -> None:
        overrides = [
            {"name": "conv", "type": "Constant", "val": 3, "bias": 4},
            {"name": "linear", "type": ConstantInit, "val": 5},
        ]
        initialize(net, {"type": "Constant", "val": 1, "layer": "Conv2d", "override": overrides})
        found = constants(net)
        assert (found["conv.weight"], found["conv.bias"]) == (3, 4)
        assert (found["linear.weight"], found["linear.bias"]) == (5, 0)

    def test_the_cfg_is_not_touched(self, net: Net) -> None:
        def cfg() -> list[dict[str, Any]]:
            override = [{"name": "conv"}, {"name": "deep", "type": "Normal", "std": 2}]
            return [{"type": "Constant", "val": 1, "layer": ["Linear"], "override": override}]

        given = cfg()
        initialize(net, given)
        assert given == cfg()

    def test_a_rule_that_writes_nothing_warns(self, net: Net) -> None:
        before = copied(net)
        with pytest.warns(UserWarning, match="writes nothing: give it layer=, params= or"):
            initialize(net, {"type": "Normal"})
        assert same(copied(net), before)

    def test_one_without_layer_that_writes_by_itself_does_not_warn(self, net: Net) -> None:
        class Everything(BaseInit):
            def __call__(self, module: nn.Module) -> None:
                for parameter in module.parameters():
                    fastinit.init.constant_(parameter, 9)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            initialize(net, {"type": Everything})
        assert set(constants(net).values()) == {9}

    def test_init_layer_is_all_that_a_new_initializer_needs(self, net: Net) -> None:
        class Scaled(BaseInit):
            def init_layer(self, module: nn.Module) -> None:
                fastinit.constant_init(module, 1 / module.weight.shape[0], self.bias)

        initialize(net, {"type": Scaled, "layer": "Linear"})
        assert constants(net)["linear.weight"] == pytest.approx(1 / 5)

    def test_an_initializer_that_does_nothing_says_so(self, net: Net) -> None:
        with pytest.raises(NotImplementedError, match="defines neither init_layer nor __call__"):
            initialize(net, {"type": BaseInit, "layer": "Linear"})

    def test_one_fill_for_everything(self, net: Net, fill_sizes: list[int]) -> None:
        rules = [{"type": "Normal", "layer": name} for name in ("Linear", "Conv2d", "Conv1d")]
        with fastinit.backend("native"):
            initialize(net, [*rules, {"type": "Constant", "val": 1, "layer": "Linear"}])
        assert fill_sizes == [7]  # conv, linear, deep.0 without bias, deep.2


ON_NET = [
    ("Normal", TypeError, "init_cfg must be a dict or a list of dicts, got 'Normal'"),
    (({"type": "Normal"},), TypeError, "must be a dict or a list"),
    ({"layer": "Linear"}, KeyError, "needs the key 'type'"),
    ({"type": "Kaimin", "layer": "Linear"}, KeyError, "did you mean 'Kaiming'"),
    ({"type": 3}, TypeError, "callable, got 3"),
    ({"type": "Constant", "layer": "Linear"}, TypeError, "'val'.*while building"),
    ({"type": "Normal", "layer": 3}, TypeError, "list of them, got 3; while building"),
    (
        {"type": "Kaiming", "layer": ["Linear", "BatchNorm2d"]},
        ValueError,
        r"KaimingInit: .* BatchNorm2d 'norm' of Net with a weight of shape \(4,\).*narrow 'layer'",
    ),
    (
        {"type": "Xavier", "layer": [], "override": {"name": "norm"}},
        ValueError,
        "XavierInit.*choose another 'type' for this override",
    ),
    ({"type": "Kaiming", "layer": "Linear", "mode": "fan_up"}, ValueError, "fan_up"),
    ({"type": "Normal", "layer": "Linear", "std": -1.0}, RuntimeError, "std"),
    (
        {"type": "Xavier", "layer": "Linear", "distribution": "cauchy"},
        AssertionError,
        "got 'cauchy'",
    ),
    (
        {"type": "Kaiming", "layer": "Linear", "distribution": "cauchy"},
        AssertionError,
        "got 'cauchy'",
    ),
    ({"type": "Normal", "override": "conv"}, TypeError, "override must be .* got 'conv'"),
    ({"type": "Normal", "override": ["conv"]}, AttributeError, "must hold dicts.*'conv'"),
    ({"type": "Normal", "override": {}}, ValueError, "needs the key 'name'"),
    ({"type": "Normal", "override": {"type": "Normal"}}, ValueError, "needs the key 'name'"),
    (
        {"type": "Normal", "override": {"name": "conv", "std": 2}},
        ValueError,
        "needs the key 'type'; with nothing but 'name' it would take over",
    ),
    (
        {"type": "Normal", "override": {"name": "con"}},
        RuntimeError,
        "Net has no 'con'.*did you mean 'conv'.*'linear', 'norm', 'deep'",
    ),
    ({"type": "Normal", "override": {"name": "forward"}}, AttributeError, "not a method"),
]


@pytest.mark.parametrize(("cfg", "error", "message"), ON_NET)
class TestMistakes:
    def test_mmengine_raises_the_same(self, net: Net, cfg: Any, error: Any, message: str) -> None:
        with pytest.raises(error) as caught:
            mmengine.model.initialize(net, cfg)
        assert caught.type is error

    def test_message(self, net: Net, cfg: Any, error: Any, message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            initialize(net, cfg)
        assert caught.type is error

    def test_native_leaves_the_module_as_it_was(
        self, net: Net, cfg: Any, error: Any, message: str
    ) -> None:
        before = copied(net)
        first = {"type": "Constant", "val": 5, "layer": ["Linear", "Conv2d"]}
        with fastinit.backend("native"), pytest.raises(error):
            initialize(net, [first, cfg] if isinstance(cfg, dict) else cfg)
        assert same(copied(net), before)


def test_each_layer_warns_of_a_window_far_from_the_mean(backend: str) -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU())
    rule = {"type": "TruncNormal", "layer": "Linear", "std": 0.02, "a": 0.1, "b": 0.2}
    with pytest.warns(UserWarning, match="more than 2 std") as told:
        initialize(layers, rule)
    assert len(told) == 2
    for layer in layers[:2]:
        assert bool(((layer.weight >= 0.1) & (layer.weight <= 0.2)).all())
        assert bool((layer.bias == 0).all())


def test_torch_keeps_what_was_written_before_an_error(net: Net) -> None:
    first = {"type": "Constant", "val": 5, "layer": "Linear"}
    with fastinit.backend("torch"), pytest.raises(KeyError):
        initialize(net, [first, {"type": "Nope"}])
    assert constants(net)["linear.weight"] == 5


class TestUpdateInitInfo:
    def test_outside_of_init_weights(self, net: Net) -> None:
        with pytest.raises(AssertionError, match="not part of a module whose `init_weights`"):
            update_init_info(net, "text")

    def test_inside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Own(BaseModule):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(2, 2)

            def init_weights(self) -> None:
                nn.init.ones_(self.linear.weight)
                update_init_info(self, "ones, as the paper has it")
                nn.init.zeros_(self.linear.bias)

        reports: list[Any] = []
        monkeypatch.setattr(
            fastinit.init_cfg.report,
            "dump",
            lambda initialization: reports.append(initialization.report()),
        )
        fastinit.Sequential(Own()).init_weights()
        assert [info for *_, info in reports[0]] == [
            "ones, as the paper has it",
            "Initialized by user-defined `init_weights` in Own ",
        ]
