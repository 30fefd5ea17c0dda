"""mmengine under unmodified code: `install`, and models of mmpretrain and of mmengine alone."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mmengine.model
import pytest
import torch
from lines import Lines
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, bias_init_with_prob
from mmengine.registry import WEIGHT_INITIALIZERS
from modules import copied, same
from torch import nn

import fastinit
from bench.lib import mmpretrain_models
from bench.lib.alike import differences
from fastinit.integrations import mmengine as seam

STOCK = BaseModule.init_weights


@pytest.fixture
def installed() -> Iterator[None]:
    with seam.install():
        yield
    assert BaseModule.init_weights is STOCK
    assert "__init_subclass__" not in vars(BaseModule)
    assert Head.init_weights is HEADS


class Head(BaseModule):
    """A head as detectors have it, from mmengine alone."""

    def __init__(self) -> None:
        super().__init__(
            [
                dict(type="Normal", layer="Conv2d", std=0.01),
                dict(
                    type="Constant",
                    layer="BatchNorm2d",
                    val=1,
                    override=dict(type="Normal", name="cls", std=0.01, bias_prob=0.01),
                ),
            ]
        )
        self.convs = mmengine.model.Sequential(
            *(mmengine.model.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)) for _ in range(3))
        )
        self.cls = nn.Conv2d(8, 20, 3)
        self.scale = nn.Parameter(torch.ones(1))

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.constant_(self.scale, 2.0)


HEADS = Head.init_weights


def test_it_is_one_fill(installed: None, fill_sizes: list[int]) -> None:
    class Plain(BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Kaiming", layer=["Conv2d", "Linear"]))
            self.conv, self.inner, self.linear = nn.Conv2d(3, 4, 3), Head(), nn.Linear(4, 4)

    model = Plain()
    torch.manual_seed(1)
    model.init_weights()
    assert len(fill_sizes) == 1
    bias = bias_init_with_prob(0.01)
    assert torch.allclose(model.inner.cls.bias, torch.full((20,), bias))
    assert model.inner.scale.item() == 2
    assert model.is_init
    assert model.inner.is_init


def test_manual_seed_governs(installed: None) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        head = Head()
        torch.manual_seed(seed)
        head.init_weights()
        found.append(copied(head))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


MORE: list[dict[str, Any]] = [
    {"type": "BEiTViT", "arch": "deit-tiny"},
    {"type": "DenseNet", "arch": "121"},
    {"type": "HorNet", "arch": "tiny"},
    {"type": "LeViT", "arch": "128s"},
    {"type": "MAEViT", "arch": "deit-tiny"},
    {"type": "MViT", "arch": "tiny"},
    {"type": "MixMIMTransformer", "arch": "B"},
    {"type": "PoolFormer", "arch": "s12"},
    {"type": "PyramidVig", "arch": "tiny"},
    {"type": "Res2Net", "depth": 50},
    {"type": "ResNeXt", "depth": 50},
    {"type": "SimMIMSwinTransformer", "arch": "tiny"},
    {"type": "T2T_ViT"},
]


def test_laws_and_touched_parameters_are_stocks(request: pytest.FixtureRequest) -> None:
    makers: dict[str, Any] = {
        **{n: make for n, make in mmpretrain_models.constructors().items() if "TIMM" not in n},
        **{config["type"]: mmpretrain_models.maker(config) for config in MORE},
    }
    if not request.config.getoption("--thorough"):
        few = ("MobileNetV3", "BEiTViT")
        makers = {n: make for n, make in makers.items() if n.endswith(few)}
    for name, make in {"head": Head, **makers}.items():
        torch.manual_seed(0)
        stock = make()
        stock.init_weights()
        torch.manual_seed(0)
        model = make()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        with seam.install():
            model.init_weights()
        assert not differences(stock, model), name
        torch.manual_seed(0)
        constructed = dict(make().named_parameters())
        for n, p in stock.named_parameters():
            untouched = torch.equal(p, constructed[n])
            assert torch.equal(before[n], dict(model.named_parameters())[n]) >= untouched, n


def test_the_torch_backend_is_stock(installed: None) -> None:
    found = []
    for is_ours in (True, False):
        torch.manual_seed(3)
        head = Head()
        with fastinit.backend("torch"):
            (head.init_weights if is_ours else lambda head=head: STOCK(head))()
        found.append(copied(head))
    found[1]["scale"] = found[0]["scale"]
    assert same(*found)


def test_its_report_comes_once(installed: None, mmengine_loggers: None) -> None:
    logger, handler = MMLogger.get_instance("seam", log_level="INFO"), Lines()
    logger.addHandler(handler)
    try:
        head = Head()
        head.init_weights()
    finally:
        logger.removeHandler(handler)
    told = [line for line in handler.lines if "convs.0.0.weight" in line]
    assert len(told) == 1
    assert "NormalInit: mean=0, std=0.01" in told[0]
    assert not any(hasattr(module, "_params_init_info") for module in head.modules())


def test_an_error_drops_what_waits_and_the_bookkeeping(installed: None) -> None:
    class Failing(BaseModule):
        def __init__(self) -> None:
            super().__init__(
                [dict(type="Normal", layer="Linear"), dict(type="Kaiming", layer="LayerNorm")]
            )
            self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    model = Failing()
    before = copied(model)
    with pytest.raises(ValueError, match="fewer than 2"):
        model.init_weights()
    assert same(copied(model), before)
    assert not any(hasattr(module, "_params_init_info") for module in model.modules())


def test_initializers_of_users_and_scopes_stay_mmengines(installed: None) -> None:
    @WEIGHT_INITIALIZERS.register_module(name="Sevens", force=True)
    class Sevens(mmengine.model.BaseInit):  # type: ignore[misc]
        def __call__(self, module: nn.Module) -> None:
            module.apply(lambda m: nn.init.constant_(m.weight, 7) if hasattr(m, "weight") else None)

    class Net(BaseModule):
        def __init__(self, kind: str) -> None:
            super().__init__(dict(type=kind, layer="Linear", **({"val": 7} if "C" in kind else {})))
            self.linear = nn.Linear(2, 2)

    for kind in ("Sevens", "mmengine.Constant"):
        net = Net(kind)
        net.init_weights()
        assert bool((net.linear.weight == 7).all())


def test_after_an_error_everything_can_run_again(installed: None) -> None:
    class First(BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Constant", layer="Linear", val=3))
            self.linear = nn.Linear(2, 2)

    class Fails(BaseModule):
        raises = True

        def init_weights(self) -> None:
            if self.raises:
                raise LookupError
            super().init_weights()

    class Top(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = First(), Fails()

    top = Top()
    with pytest.raises(LookupError):
        top.init_weights()
    assert not top.first.is_init
    top.second.raises = False
    top.init_weights()
    assert bool((top.first.linear.weight == 3).all())


def test_code_outside_of_super_is_in_the_plan(installed: None, fill_sizes: list[int]) -> None:
    head = Head()  # a class that was there before
    head.init_weights()
    assert len(fill_sizes) == 1
    assert head.scale.item() == 2

    class Later(Head):
        def init_weights(self) -> None:
            super().init_weights()
            nn.init.constant_(self.scale, 3.0)
            raise LookupError

    later = Later()
    before = copied(later)
    with pytest.raises(LookupError):
        later.init_weights()
    assert same(copied(later), before)
    assert not later.is_init
    assert not later.convs.is_init


def test_a_child_that_is_new_before_the_rules(installed: None) -> None:
    class Replaces(BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Constant", layer="Linear", val=4))
            self.head = nn.Linear(2, 2)

        def init_weights(self) -> None:
            self.head = mmengine.model.Sequential(nn.Linear(2, 3))
            super().init_weights()

    net = Replaces()
    net.init_weights()
    assert bool((net.head[0].weight == 4).all())
    assert net.head.is_init


def test_copies_that_are_made_meanwhile(installed: None, tmp_path: Path) -> None:
    class Copies(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.student = mmengine.model.Sequential(
                nn.Linear(2, 2), init_cfg=dict(type="Constant", layer="Linear", val=5)
            )
            self.watch = Watch(self)

    class Watch(BaseModule):
        def __init__(self, parent: Any) -> None:
            super().__init__()
            self.parent = [parent]

        def init_weights(self) -> None:
            (parent,) = self.parent
            self.teacher = [copy.deepcopy(parent.student)]
            torch.save(parent.student, tmp_path / "a.pth")
            info = parent._params_init_info
            assert len(info) == len(list(info)) == len(list(parent.parameters())) == 2
            assert {entry["init_info"] for entry in info.values()} == {
                "ConstantInit: val=5, bias=0"
            }

    net = Copies()
    net.init_weights()
    (teacher,) = net.watch.teacher
    assert bool((teacher[0].weight == 5).all())
    teacher.is_init = False
    nn.init.zeros_(teacher[0].weight)
    teacher.init_weights()  # an outermost call
    assert bool((teacher[0].weight == 5).all())
    assert not hasattr(teacher, "_params_init_info")


def test_each_outermost_call_reports(installed: None, mmengine_loggers: None) -> None:
    class Both(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Head(), Head()

        def init_weights(self) -> None:
            self.a.init_weights()
            self.b.init_weights()

    logger, handler = MMLogger.get_instance("both", log_level="INFO"), Lines()
    logger.addHandler(handler)
    Both().init_weights()
    assert len([line for line in handler.lines if "convs.0.0.weight" in line]) == 2


@pytest.mark.parametrize("where", ["alone", "fused"])
def test_an_error_leaves_no_bookkeeping(installed: None, where: str) -> None:
    class Raises(BaseModule):
        def init_weights(self) -> None:
            raise LookupError

    net = mmengine.model.Sequential(nn.Linear(2, 2), Raises())
    with fastinit.fused() if where == "fused" else nullcontext(), pytest.raises(LookupError):
        net.init_weights()
    assert not any(hasattr(module, "_params_init_info") for module in net.modules())


def test_decorated_functions_are_others() -> None:
    calls = []

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def call(self: Any) -> None:
            calls.append(type(self).__name__)
            function(self)

        return call

    with seam.install():

        class Decorated(Head):
            init_weights = logged(Head.init_weights)

        Head.init_weights, before = logged(Head.init_weights), Head.init_weights
    try:
        Decorated().init_weights()
        Head().init_weights()
        assert calls == ["Decorated", "Head"]
    finally:
        Head.init_weights = before
        with seam.install():
            pass


def test_contexts_of_threads() -> None:
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with seam.install():
            entered.set()
            assert left.wait(20)
            assert seam.is_installed()

    with ThreadPoolExecutor(1) as pool:
        with seam.install():
            done = pool.submit(other)
            assert entered.wait(20)
        left.set()
        done.result()
    assert not seam.is_installed()
    installation = seam.install()
    for _ in range(2):
        with installation:
            assert seam.is_installed()
        assert not seam.is_installed()


def test_patches_of_others_stay() -> None:
    @functools.wraps(STOCK)
    def patched(self: Any) -> None:
        STOCK(self)

    BaseModule.init_weights = patched
    try:
        with seam.install():
            assert seam.is_installed()
            with seam.install():
                assert seam.is_installed()
            assert seam.is_installed()
        assert BaseModule.init_weights is patched
    finally:
        BaseModule.init_weights = STOCK


def test_install_twice_is_install() -> None:
    assert not seam.is_installed()
    seam.install()
    seam.install()
    assert seam.is_installed()
    seam.uninstall()
    assert BaseModule.init_weights is STOCK
    seam.uninstall()
    assert not seam.is_installed()
