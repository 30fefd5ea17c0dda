"""The report of who wrote what, in the log."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine.logging
import mmengine.model
import pytest
import torch
from modules import Foreign, Net, Own
from torch import nn

import fastinit
from fastinit import BaseModule

pytestmark = pytest.mark.usefixtures("backend")


def constant(value: float, layer: Any = "Linear", **more: Any) -> dict[str, Any]:
    return {"type": "Constant", "val": value, "bias": value, "layer": layer, **more}


class Layer(BaseModule):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.linear = nn.Linear(2, 3)


def reported() -> Net:
    """A model that is written by rules, by code, and in part not at all."""
    return Net(
        [{"type": "Kaiming", "layer": "Linear", "bias": 1}, {"type": "Normal", "layer": "Conv1d"}],
        a=nn.Linear(2, 3),
        b=Layer(constant(5)),
        c=Own(),
        d=Foreign(),
        e=nn.Conv1d(2, 2, 2, bias=False),
        f=nn.BatchNorm1d(3),
    )


KAIMING = "KaimingInit: a=0, mode=fan_out, nonlinearity=relu, distribution =normal, bias=1"
LAYOUT = f"""Name of parameter - Initialization information

a.weight - torch.Size([3, 2]): 
{KAIMING} 

a.bias - torch.Size([3]): 
{KAIMING} 

b.linear.weight - torch.Size([3, 2]): 
ConstantInit: val=5, bias=5 

b.linear.bias - torch.Size([3]): 
ConstantInit: val=5, bias=5 

c.linear.weight - torch.Size([3, 2]): 
Initialized by user-defined `init_weights` in Own  

c.linear.bias - torch.Size([3]): 
{KAIMING} 

d.linear.weight - torch.Size([3, 2]): 
Initialized by user-defined `init_weights` in Foreign  

d.linear.bias - torch.Size([3]): 
{KAIMING} 

e.weight - torch.Size([2, 2, 2]): 
NormalInit: mean=0, std=1, bias=0 

f.weight - torch.Size([3]): 
The value is the same before and after calling `init_weights` of Net  

f.bias - torch.Size([3]): 
The value is the same before and after calling `init_weights` of Net  
"""  # noqa: W291 - the spaces are part of the format


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("fastinit")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield logger
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


class TestReport:
    def test_log_file(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "log"
        logger.addHandler(logging.FileHandler(path))
        reported().init_weights()
        assert path.read_text() == LAYOUT

    def test_log_of_mmengines_runner(self, mmengine_loggers: None, tmp_path: Path) -> None:
        get_instance = mmengine.logging.MMLogger.get_instance
        get_instance("first", log_file=str(tmp_path / "first"))
        get_instance("second", log_file=str(tmp_path / "second"))  # now the current one
        reported().init_weights()
        assert (tmp_path / "second").read_text() == LAYOUT
        assert (tmp_path / "first").read_text() == ""

    def test_layout_is_mmengines(self, mmengine_loggers: None, tmp_path: Path) -> None:
        path = tmp_path / "log"
        mmengine.logging.MMLogger.get_instance(str(path), log_file=str(path))  # now the current one
        before = path.read_text()

        class Parent(mmengine.model.BaseModule):
            def __init__(self) -> None:
                super().__init__(constant(5))
                self.linear = nn.Linear(2, 3)

        Parent.__name__ = "Layer"
        Parent().init_weights()
        theirs = path.read_text().removeprefix(before)
        ours = io.StringIO()
        handler = logging.FileHandler(tmp_path / "unused", delay=True)
        handler.stream = ours  # type: ignore[assignment]
        logger = logging.getLogger("fastinit")
        logger.addHandler(handler)
        try:
            Layer(constant(5)).init_weights()
        finally:
            logger.removeHandler(handler)
        assert ours.getvalue() == theirs

    def test_log_file_that_opens_late(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "log"
        logger.addHandler(logging.FileHandler(path, delay=True))
        reported().init_weights()
        assert path.read_text() == LAYOUT

    def test_log_file_of_the_application_gets_messages(
        self, logger: logging.Logger, tmp_path: Path
    ) -> None:
        path = tmp_path / "log"
        handler = logging.FileHandler(path)
        logging.getLogger().addHandler(handler)
        try:
            Layer(constant(5)).init_weights()
            assert path.read_text() == ""  # it did not ask for INFO
            logger.setLevel(logging.INFO)
            Layer(constant(5)).init_weights()
        finally:
            logging.getLogger().removeHandler(handler)
        assert path.read_text().count("ConstantInit: val=5, bias=5") == 2
        assert "Name of parameter" not in path.read_text()

    def test_log_file_above_info_gets_nothing(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "log"
        logger.addHandler(logging.FileHandler(path))
        logger.handlers[-1].setLevel(logging.WARNING)
        reported().init_weights()
        assert path.read_text() == ""

    def test_one_message_per_parameter_without_a_file(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "fastinit")
        Layer(constant(5)).init_weights()
        assert [record.getMessage() for record in caplog.records] == [
            "\nlinear.weight - torch.Size([3, 2]): \nConstantInit: val=5, bias=5 \n ",
            "\nlinear.bias - torch.Size([3]): \nConstantInit: val=5, bias=5 \n ",
        ]

    def test_is_not_built_for_nobody(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def report(self: Any) -> Any:
            raise AssertionError("nobody listens")

        monkeypatch.setattr(fastinit.plan.provenance.Initialization, "report", report)
        reported().init_weights()
        assert capfd.readouterr() == ("", "")

    def test_of_other_ranks_is_silent(
        self, logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "log"
        logger.addHandler(logging.FileHandler(path))
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
        reported().init_weights()
        assert path.read_text() == ""

    def test_cfg_at_debug(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "fastinit")
        Layer(constant(5)).init_weights()
        assert caplog.records[0].getMessage() == f"initialize Layer with init_cfg {constant(5)}"

    def test_custom_initializer_is_credited_though_it_says_nothing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Silent(fastinit.BaseInit):
            def __call__(self, module: nn.Module) -> None:
                nn.init.constant_(module.linear.weight, 4)

        caplog.set_level(logging.INFO, "fastinit")
        Layer([{"type": Silent}, {"type": "Constant", "val": 1, "layer": "Conv1d"}]).init_weights()
        assert "\nSilent, bias=0 \n" in caplog.records[0].getMessage()
