"""The examples: each runs, and on the torch backend gives exactly what mmengine gives."""

from __future__ import annotations

import logging
import math
import re
import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine.model
import mmengine.registry
import pytest
import torch
from torch import Tensor, nn

import fastinit
from examples import llama

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
# Those that import both libraries make the comparison themselves.
COMPARABLE = [name for name in SCRIPTS if "mmengine" not in name]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """mmengine says less, and what an example does to a logger ends with it."""
    levels = {name: logging.getLogger(name).level for name in ("mmengine", "fastinit")}
    logging.getLogger("mmengine").setLevel(logging.ERROR)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def tensors(namespace: dict[str, Any]) -> dict[str, Tensor]:
    """Every tensor that a script left in its global names, those of its modules included."""
    found: dict[str, Tensor] = {}
    for name, value in namespace.items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, nn.Module):
            found.update({f"{name}.{key}": t for key, t in value.state_dict().items()})
    return found


def without_figures(text: str) -> str:
    return re.sub(r"[-+]?[0-9][0-9.,]*", "#", text)


def shown_in_readme(script: str) -> str:
    """What examples/README.md shows as the script's first lines."""
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    return readme.partition(f"`{script}`\n\n```text\n")[2].partition("```")[0] or "not shown"


def test_every_case_has_a_script() -> None:
    assert len(SCRIPTS) == 11


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_runs_and_prints(script: str, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    with fastinit.backend(backend):
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    printed, complaints = capsys.readouterr()
    lines = printed.splitlines()
    assert 3 <= len(lines) <= 16
    assert max(map(len, lines)) <= 90
    # A head, and a row of figures below it.
    head = next(n for n, line in enumerate(lines) if "std" in line)
    assert re.search(r"[0-9]\.[0-9]{4}", lines[head + 1])
    assert complaints == ""
    assert without_figures(printed).startswith(without_figures(shown_in_readme(script)))


@pytest.mark.parametrize("script", COMPARABLE)
def test_is_mmengine_bit_for_bit(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with fastinit.backend("torch"):
        ours = tensors(runpy.run_path(str(EXAMPLES / script)))

    # The change of one import, backwards: the same file, with mmengine under fastinit's name.
    stand_in = types.ModuleType("fastinit")
    stand_in.__dict__.update(vars(mmengine.model))
    stand_in.__dict__["WEIGHT_INITIALIZERS"] = mmengine.registry.WEIGHT_INITIALIZERS
    monkeypatch.setitem(sys.modules, "fastinit", stand_in)
    monkeypatch.setitem(sys.modules, "fastinit.init", torch.nn.init)
    theirs = tensors(runpy.run_path(str(EXAMPLES / script)))

    assert list(ours) == list(theirs)
    assert len(ours) > 1
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


class TestLlama:
    def test_size(self) -> None:
        model = llama.decoder(device="meta")
        assert sum(p.numel() for p in model.parameters()) == 1_100_048_384

    @pytest.mark.parametrize("truncated", [False, True])
    def test_moments(self, truncated: bool) -> None:
        torch.manual_seed(0)
        model = llama.decoder(sizes=llama.SMALL, truncated=truncated)
        model.init_weights()
        # A normal distribution cut at three standard deviations is 1.35 % narrower.
        spread = 0.02 * (0.98658 if truncated else 1)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                assert bool((parameter == 1).all()), name
                continue
            std = spread / math.sqrt(2 * 2) if "o_proj" in name or "down_proj" in name else spread
            sigmas = math.sqrt(2 * parameter.numel())
            assert abs(parameter.std().item() / std - 1) < 6 / sigmas, name
            assert not truncated or parameter.abs().max() <= 0.06

    def test_is_mmengine_bit_for_bit(self) -> None:
        torch.manual_seed(0)
        theirs = llama.decoder(mmengine.model, llama.SMALL)
        theirs.init_weights()
        torch.manual_seed(0)
        ours = llama.decoder(fastinit, llama.SMALL)
        with fastinit.backend("torch"):
            ours.init_weights()
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name

    def test_rotation_keeps_lengths_and_relative_angles(self) -> None:
        x = torch.randn(1, 1, 1, 8, dtype=torch.float64).expand(1, 1, 5, 8)
        rotated = llama.rotate(x, 10000.0)[0, 0]
        assert torch.allclose(rotated.norm(dim=-1), x[0, 0].norm(dim=-1))
        assert torch.equal(rotated[0], x[0, 0, 0])
        # The same vector one step apart makes the same product wherever the pair stands.
        products = (rotated[1:] * rotated[:-1]).sum(-1)
        assert torch.allclose(products, products[0].expand(4))

    def test_main_checks_its_own_loss(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["llama.py"])
        llama.main()
        assert "158,016 parameters initialised" in capsys.readouterr().out
