"""BaseModule: precedence, who is called, repeated calls, errors and the number of fills."""

from __future__ import annotations

import copy
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import Foreign, Net, Own
from torch import nn

from fastinit import BaseModule, ModuleDict, ModuleList, Sequential

pytestmark = pytest.mark.usefixtures("backend")


def constant(value: float, layer: Any = "Linear", **more: Any) -> dict[str, Any]:
    return {"type": "Constant", "val": value, "bias": value, "layer": layer, **more}


def value(module: nn.Module) -> float:
    """The one value of a module's weight; NaN if it has several."""
    values = module.weight.unique().tolist()  # type: ignore[union-attr, operator]
    return values[0] if len(values) == 1 else float("nan")


class Layer(BaseModule):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.linear = nn.Linear(2, 3)


class TestPrecedence:
    def test_child_over_parent(self) -> None:
        net = Net(constant(1), a=Layer(constant(2)), b=Layer(), c=nn.Linear(2, 2))
        net.init_weights()
        assert [value(m) for m in (net.a.linear, net.b.linear, net.c)] == [2, 1, 1]

    def test_code_over_cfg(self) -> None:
        net = Net(constant(1), own=Own(), foreign=Foreign())
        net.init_weights()
        assert [value(net.own.linear), value(net.foreign.linear)] == [11, 12]

    def test_pretrained_last_wherever_it_stands(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save({"a.linear.weight": torch.full((3, 2), 7.0)}, path)
        pretrained = {"type": "Pretrained", "checkpoint": str(path)}
        net = Net([pretrained, constant(1)], a=Layer(constant(2)))
        net.init_weights()
        assert value(net.a.linear) == 7
        assert bool((net.a.linear.bias == 2).all())

    def test_pretrained_inside_an_override_is_a_rule_like_others(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save({"linear.weight": torch.full((3, 2), 7.0)}, path)
        override = {"type": "Pretrained", "checkpoint": str(path), "name": "a"}
        net = Net([constant(1, override=override)], a=Layer(), b=Layer())
        net.init_weights()
        assert [value(net.a.linear), value(net.b.linear)] == [7, 1]
        net = Net([constant(1, override=override), constant(3)], a=Layer())
        net.init_weights()
        assert value(net.a.linear) == 3

    def test_modules_between_that_are_plain_stop_the_recursion(self) -> None:
        own = Own()
        Net(plain=nn.Sequential(own)).init_weights()
        assert own.calls == 0

    @pytest.mark.parametrize(
        "container",
        [
            lambda *m: Sequential(*m, init_cfg=constant(4)),
            lambda *m: ModuleList(m, init_cfg=constant(4)),
            lambda *m: ModuleDict({str(i): x for i, x in enumerate(m)}, init_cfg=constant(4)),
        ],
        ids=["Sequential", "ModuleList", "ModuleDict"],
    )
    def test_containers(self, container: Any) -> None:
        net = container(nn.Linear(2, 2), Own())
        net.init_weights()
        linear, own = net.children()
        assert (value(linear), own.calls) == (4, 1)
        assert isinstance(net, BaseModule)
        assert "init_cfg={'type': 'Constant'" in repr(net)

    @pytest.mark.parametrize("container", [Sequential, ModuleList, ModuleDict])
    def test_empty_containers(self, container: Any) -> None:
        net = container()
        net.init_weights()
        assert (len(net), net.is_init, net.init_cfg) == (0, True, None)

    def test_parallel_wrappers_are_looked_through(self) -> None:
        own = Own()
        Net(wrapped=nn.DataParallel(own)).init_weights()
        assert own.calls == 1


class TestIsInit:
    def test_once(self, caplog: pytest.LogCaptureFixture) -> None:
        net = Net(constant(1), a=nn.Linear(2, 2))
        assert not net.is_init
        net.init_weights()
        assert net.is_init
        assert not caplog.records
        nn.init.zeros_(net.a.weight)
        net.init_weights()
        assert value(net.a) == 0
        assert [r.getMessage() for r in caplog.records] == [
            "init_weights of Net has been called more than once."
        ]
        net.is_init = False
        net.init_weights()
        assert value(net.a) == 1

    def test_initialised_children_are_not_called_again(self) -> None:
        net = Net(constant(1), a=Layer(constant(2)))
        net.a.init_weights()
        net.init_weights()
        assert value(net.a.linear) == 1

    def test_code_that_sets_no_flag_is_called_again(self) -> None:
        own = Own()
        net = Net(a=own, b=Net(c=own))
        net.init_weights()
        assert own.calls == 2


class TestCfg:
    def test_is_a_copy(self) -> None:
        cfg = [constant(1, layer=["Linear"])]
        net = Net(cfg, a=nn.Linear(2, 2))
        cfg[0]["layer"].append("Conv2d")
        cfg.append(constant(2))
        assert net.init_cfg == [constant(1, layer=["Linear"])]

    def test_is_not_modified(self) -> None:
        cfg = constant(1, override=[{"name": "a"}])
        net = Net(cfg, a=nn.Linear(2, 2))
        net.init_weights()
        assert net.init_cfg == cfg

    @pytest.mark.parametrize(
        ("cfg", "error", "message"),
        [
            ("Constant", AssertionError, "a list of dicts, got 'Constant'; write dict"),
            ([None], AssertionError, "init_cfg of Net must be .* holds None"),
            (5, TypeError, "must be a dict or a list, got 5"),
            ({"layer": "Linear"}, KeyError, "in init_cfg of Net has no 'type'"),
            ([constant(1), {"layer": "Linear"}], KeyError, "has no 'type'"),
            ({"type": "Nope"}, KeyError, "no weight initializer is called 'Nope'"),
        ],
    )
    def test_mistakes(self, cfg: Any, error: Any, message: str) -> None:
        net = Net(cfg, a=nn.Linear(2, 2))
        before = net.a.weight.detach().clone()
        with pytest.raises(error, match=message):
            net.init_weights()
        assert torch.equal(net.a.weight, before)
        assert not net.is_init

    def test_a_tuple_is_as_good_as_a_list(self) -> None:
        net = Net((constant(1), constant(2)), a=nn.Linear(2, 2))
        net.init_weights()
        assert value(net.a) == 2

    def test_repr(self) -> None:
        assert repr(Net()) == "Net()"
        assert repr(Net({"type": "Normal"})) == "Net()\ninit_cfg={'type': 'Normal'}"

    def test_survives_deepcopy(self) -> None:
        net = copy.deepcopy(Net(constant(1), a=nn.Linear(2, 2)))
        net.init_weights()
        assert value(net.a) == 1


class TestErrors:
    def test_afterwards_everything_can_run_again(self, backend: str) -> None:
        """On the native backend nothing is done, so no module may count as done."""
        good, bad = Layer(constant(2)), Layer({"type": "Nope"})
        net = Net(constant(1), good=good, bad=bad)
        before = good.linear.weight.detach().clone()
        with pytest.raises(KeyError):
            net.init_weights()
        if backend == "native":
            assert torch.equal(good.linear.weight, before)
        else:
            assert value(good.linear) == 2
        assert good.is_init == (backend == "torch")
        bad.init_cfg = constant(3)
        net.init_weights()
        assert net.is_init
        assert value(bad.linear) == 3
        # The torch backend is mmengine: what was done is not done again, so the parent wins.
        assert value(good.linear) == (2 if backend == "native" else 1)

    def test_a_parameter_that_appears_meanwhile(self) -> None:
        class Growing(BaseModule):
            def init_weights(self) -> None:
                self.late = nn.Parameter(torch.zeros(2))

        with pytest.raises(AssertionError, match="`late` of `Growing` was added or replaced"):
            Net(a=Growing()).init_weights()


class TestOneFill:
    def test_a_model_is_one_call(self, backend: str, fill_sizes: list[int]) -> None:
        net = Net(
            {"type": "Kaiming", "layer": "Linear"},
            a=Layer({"type": "Normal", "layer": "Linear", "override": {"name": "linear"}}),
            b=Own(),
            c=nn.BatchNorm1d(3),
        )
        net.init_weights()
        # Two layers of weight and bias, written up to three times each.
        assert fill_sizes == ([4] if backend == "native" else [])

    def test_the_seed_is_drawn_from_torchs_generator(self) -> None:
        def initialised(seed: int) -> torch.Tensor:
            net = Net({"type": "Normal", "layer": "Linear"}, a=nn.Linear(3, 3))
            torch.manual_seed(seed)
            net.init_weights()
            return net.a.weight

        assert torch.equal(initialised(1), initialised(1))
        assert not torch.equal(initialised(1), initialised(2))


class TestUnusualModules:
    def test_scripted_children(self):
        class Scripted(BaseModule):
            def __init__(self):
                super().__init__(init_cfg=dict(type="Constant", val=7, layer="Linear"))
                self.plain = nn.Linear(2, 2)
                self.scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))

        model = Scripted()
        model.init_weights()
        assert (model.plain.weight == 7).all()

    def test_children_that_are_hidden_stay_as_they_are(self):
        class Hides(nn.Module):
            def __init__(self):
                super().__init__()
                self.frozen = nn.Linear(2, 2)
                nn.init.zeros_(self.frozen.weight)

            def children(self):
                return iter(())

        class Root(BaseModule):
            def __init__(self):
                super().__init__(init_cfg=dict(type="Constant", val=7, layer="Linear"))
                self.hides, self.plain = Hides(), nn.Linear(2, 2)

        model = Root()
        model.init_weights()
        assert (model.plain.weight == 7).all()
        assert (model.hides.frozen.weight == 0).all()

    def test_a_module_that_skips_the_constructor(self):
        class Bare(BaseModule):
            def __init__(self):
                nn.Module.__init__(self)
                self.weight = nn.Parameter(torch.zeros(2))

            def init_weights(self):
                nn.init.ones_(self.weight)

        model = Bare()
        model.init_weights()
        assert (model.weight == 1).all()


def test_models_may_be_nested_deeper_than_pythons_calls(request: pytest.FixtureRequest) -> None:
    class Level(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

    root = deepest = Level()
    root.init_cfg = {"type": "Constant", "layer": "Linear", "val": 3.0}
    calls = 100 + len(inspect.stack(0))
    for _ in range(2 * calls):
        deepest.below = Level()
        deepest = deepest.below
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(calls)  # the usual 1000 would take long
    request.addfinalizer(lambda: sys.setrecursionlimit(before))
    deepest.init_cfg = {"type": "Constant", "layer": "Linear", "val": 5.0}
    root.init_weights()
    assert (root.below.fc.weight == 3.0).all()
    assert (deepest.fc.weight == 5.0).all()
    assert deepest.is_init
