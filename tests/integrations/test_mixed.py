"""Code that has changed the import, among code that has not."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mmengine.model
import pytest
import torch
from mmengine.registry import WEIGHT_INITIALIZERS, Registry
from modules import copied, same
from torch import nn

import fastinit
from fastinit.integrations import mmengine as seam


@WEIGHT_INITIALIZERS.register_module(name="Nines", force=True)
class Nines(mmengine.model.BaseInit):  # type: ignore[misc]
    """An initializer of a user, in mmengine's registry."""

    def __call__(self, module: nn.Module) -> None:
        def init(layer: nn.Module) -> None:
            if self.wholemodule or type(layer).__name__ in self.layer:
                mmengine.model.constant_init(layer, 9, bias=9)

        module.apply(init)

    def _get_init_info(self) -> str:
        return "Nines"


SCOPE = Registry("weight initializer", scope="somewhere", parent=WEIGHT_INITIALIZERS)


@SCOPE.register_module(name="Eights", force=True)
class Eights(Nines):
    def __call__(self, module: nn.Module) -> None:
        module.apply(lambda m: mmengine.model.constant_init(m, 8))


def net(library: Any, cfg: Any) -> Any:
    class Net(library.BaseModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(cfg)
            self.linear = nn.Linear(2, 2)

    return Net()


def test_ours_counts_as_theirs() -> None:
    ours = net(fastinit, None)
    assert isinstance(ours, mmengine.model.BaseModule)
    assert isinstance(fastinit.ModuleList([ours]), mmengine.model.BaseModule)
    assert not isinstance(net(mmengine.model, None), fastinit.BaseModule)


@pytest.mark.parametrize("pretrained", ["Pretrained", mmengine.model.PretrainedInit])
def test_what_loads_comes_last(pretrained: Any, tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.full((2, 2), 9.0)}, tmp_path / "a.pth")
    loads = dict(type=pretrained, checkpoint=str(tmp_path / "a.pth"))
    found = []
    for library in (fastinit, mmengine.model):
        model = net(library, [loads, dict(type="Constant", layer="Linear", val=1)])
        model.init_weights()
        found.append(copied(model))
    assert same(*found)
    assert bool((found[0]["linear.weight"] == 9).all())


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("Constant", 3.0),
        ("mmengine.Constant", 3.0),
        (mmengine.model.ConstantInit, 3.0),
        ("Nines", 9.0),
        ("mmengine.Nines", 9.0),
        (Nines, 9.0),
        ("somewhere.Eights", 8.0),
    ],
)
def test_types_are_mmengines(kind: Any, value: float) -> None:
    val = {"val": 3.0} if "Constant" in str(kind) else {}
    found = []
    for library in (fastinit, mmengine.model):
        model = net(library, dict(type=kind, layer="Linear", **val))
        model.init_weights()
        found.append(copied(model))
    assert same(*found)
    assert bool((found[0]["linear.weight"] == value).all())


@pytest.mark.parametrize(("kind", "value"), [("Eights", 8.0), ("Constant", 3.0)])
def test_scopes_as_a_key(kind: str, value: float) -> None:
    given = {"val": 3.0} if kind == "Constant" else {}
    for library in (fastinit, mmengine.model):
        model = net(library, dict(type=kind, layer="Linear", _scope_="somewhere", **given))
        model.init_weights()
        assert bool((model.linear.weight == value).all()), library


def own(library: Any) -> Any:
    """A module with an `init_weights` of its own, which writes one parameter after its rules."""

    class Own(library.BaseModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(dict(type="Normal", layer="Linear", std=0.5))
            self.linear, self.norm, self.other = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)

        def init_weights(self) -> None:
            super().init_weights()
            nn.init.constant_(self.other.weight, 7.0)

    return Own()


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("is_installed", [False, True])
def test_the_report_of_a_child_with_its_own_init_weights(
    is_installed: bool, backend: str, mmengine_loggers: None, tmp_path: Path
) -> None:
    told = []
    for library in (fastinit, mmengine.model):
        model = mmengine.model.Sequential(own(library))
        log = tmp_path / library.__name__
        mmengine.logging.MMLogger.get_instance(log.name, log_file=str(log))
        with seam.install() if is_installed else nullcontext(), fastinit.backend(backend):
            model.init_weights()
        told.append(log.read_text())
    assert told[0] == told[1]
    assert "0.linear.weight - torch.Size([4, 4]): \nNormalInit: mean=0, std=0.5" in told[0]
    assert "0.other.weight - torch.Size([4, 4]): \nInitialized by user-defined" in told[0]
    assert "0.norm.weight - torch.Size([4]): \nThe value is the same" in told[0]


def test_a_child_of_theirs_in_a_model_of_ours() -> None:
    model = net(fastinit, dict(type="Constant", layer="Linear", val=1))
    model.child = net(mmengine.model, dict(type="Constant", layer="Linear", val=2))
    model.init_weights()
    assert bool((model.linear.weight == 1).all())
    assert bool((model.child.linear.weight == 2).all())
    assert model.child.is_init


@pytest.mark.parametrize("is_installed", [False, True])
def test_a_child_of_ours_in_a_model_of_theirs(
    is_installed: bool, mmengine_loggers: None, tmp_path: Path
) -> None:
    told = []
    for library in (fastinit, mmengine.model):
        model = net(mmengine.model, dict(type="Constant", layer="Linear", val=1))
        model.child = net(library, dict(type="Constant", layer="Linear", val=2))
        log = tmp_path / library.__name__
        mmengine.logging.MMLogger.get_instance(log.name, log_file=str(log))
        with seam.install() if is_installed else nullcontext():
            model.init_weights()
        assert bool((model.linear.weight == 1).all())
        assert bool((model.child.linear.weight == 2).all())
        assert model.child.is_init
        told.append(log.read_text())
    assert told[0] == told[1]
    assert "child.linear.weight - torch.Size([2, 2]): \nConstantInit: val=2, bias=0" in told[0]


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_their_update_init_info_inside_ours(
    backend: str, caplog: pytest.LogCaptureFixture, fill_sizes: list[int]
) -> None:
    class Net(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Constant", layer="Linear", val=1))
            self.linear, self.other = nn.Linear(2, 2), nn.LayerNorm(2)

        def init_weights(self) -> None:
            super().init_weights()
            nn.init.constant_(self.linear.bias, 5)
            mmengine.model.update_init_info(self, "by hand")

    model = Net()
    outer = fastinit.Sequential(model)
    with fastinit.backend(backend), caplog.at_level("INFO", logger="fastinit"):
        outer.init_weights()
    told = {r.getMessage().split()[0]: r.getMessage() for r in caplog.records}
    assert "by hand" in told["0.linear.bias"]
    assert "ConstantInit" in told["0.linear.weight"]
    assert "the same before and after" in told["0.other.weight"]
    assert len(fill_sizes) == (backend == "native")
    assert not hasattr(model, "_params_init_info")
    with pytest.raises(AssertionError, match="Can not find `_params_init_info`"):
        mmengine.model.update_init_info(model, "outside")


def test_unknown_types_are_named() -> None:
    for kind in ("Nothing", "mmengine.Nothing", "nowhere.Constant"):
        model = net(fastinit, dict(type=kind, layer="Linear"))
        with pytest.raises(KeyError, match=f"no weight initializer is called '{kind}'"):
            model.init_weights()
