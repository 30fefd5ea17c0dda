"""The examples of other libraries and of several ranks: each runs, prints, and warns of nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fastinit
from bench.lib import zoo_models
from fastinit.plan import roots

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FILES = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process of its own: models of other tests do not count, and every warning fails."""
    monkeypatch.setattr(roots, "_by_seed", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error", fastinit.InitWarning)
        warnings.simplefilter("error", UserWarning)
        yield


def run_script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def run_ranks(*command: str) -> str:
    """Run a script in a process of its own, where UserWarnings are errors; return its output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PYTHONWARNINGS"] = "error::UserWarning"
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def test_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    run_script("transformers_llama.py")
    printed = capsys.readouterr().out
    assert "4,868,352 parameters" in printed
    assert re.search(r"^lm_head\.weight +normal\(0, 0\.02\) +0\.0[12]", printed, re.MULTILINE)
    assert "all 39 tensors equal bit for bit" in printed


def test_timm(capsys: pytest.CaptureFixture[str]) -> None:
    zoo_models.of("timm/resnet18")  # which lets timm be imported
    run_script("timm_models.py")
    printed = capsys.readouterr().out
    assert "11,689,512" in printed
    assert re.search(r"^pos_embed +trunc_normal\(mean=0, std=0\.02", printed, re.MULTILINE)


def test_sharded_safetensors(capsys: pytest.CaptureFixture[str]) -> None:
    run_script("sharded_safetensors.py")
    printed = capsys.readouterr().out
    assert "body.down.bias" in printed
    assert "model-00003-of-00003.safetensors" in printed
    assert "without one shard: RuntimeError" in printed


def test_lightning(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning")
    run_script("lightning_module.py")
    assert "The same seed has the same weights and losses." in capsys.readouterr().out


def test_what_lightning_would_run() -> None:
    """Without Lightning: the network that the example's `configure_model` builds."""
    tree = ast.parse((EXAMPLES / "lightning_module.py").read_text("utf-8"))
    (hook,) = [n for n in ast.walk(tree) if getattr(n, "name", "") == "configure_model"]
    (make,) = [n for n in tree.body if getattr(n, "name", "") == "make"]
    names = {"fastinit": fastinit, "nn": torch.nn}
    exec(compile(ast.Module([make, hook], []), "lightning_module.py", "exec"), names)

    class Standing:
        network, device, seed = None, torch.device("cpu"), 0

    first, again = Standing(), Standing()
    names["configure_model"](first)  # type: ignore[operator]
    built = first.network
    names["configure_model"](first)  # type: ignore[operator]
    assert first.network is built
    with pytest.warns(fastinit.SameValuesWarning):
        names["configure_model"](again)  # type: ignore[operator]
    assert torch.equal(first.first["0.weight"], again.first["0.weight"])  # type: ignore[attr-defined]


class TestNotebook:
    NOTEBOOK = json.loads((EXAMPLES / "quickstart.ipynb").read_text("utf-8"))
    CODE = tuple("".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code")

    def test_is_a_notebook_without_outputs(self) -> None:
        assert (self.NOTEBOOK["nbformat"], self.NOTEBOOK["nbformat_minor"]) == (4, 5)
        cells = self.NOTEBOOK["cells"]
        assert len({cell["id"] for cell in cells}) == len(cells)
        for cell in cells:
            keys = {"cell_type", "id", "metadata", "source"}
            is_code = cell["cell_type"] == "code"
            assert set(cell) == keys | ({"execution_count", "outputs"} if is_code else set())
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None

    def test_installs_first(self) -> None:
        assert "%pip install -q fastinit" in self.CODE[0]
        assert not any("%" + "pip" in code for code in self.CODE[1:])

    def test_cells_run_in_order(self, capsys: pytest.CaptureFixture[str]) -> None:
        names: dict[str, Any] = {}
        for number, code in enumerate(self.CODE[1:], 1):
            exec(compile(code, f"cell {number}", "exec"), names)
        printed = capsys.readouterr().out
        assert "in another order: the same values" in printed
        assert re.search(r"^2\.bias +changed$", printed, re.MULTILINE)
        assert "0.weight" in printed


def test_loss_curve(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not request.config.getoption("--thorough"):
        pytest.skip("seven processes: with --thorough")
    printed = run_ranks("examples/loss_curve.py", "--plot", str(tmp_path / "curve.svg"))
    theirs, ours = (float(x) for x in re.findall(r"largest difference (\S+)", printed))
    assert ours < 1e-5 < 0.01 < theirs
    assert "</svg>" in (tmp_path / "curve.svg").read_text("utf-8")


def test_fsdp_tp(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--thorough"):
        pytest.skip("four processes: with --thorough")
    printed = run_ranks(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", "examples/fsdp_tp.py"
    )
    assert re.search(r"^0\.up\.weight +_S\(0, 2\) S\(0\) +256x64 +64x64$", printed, re.MULTILINE)
    assert len(re.findall(r"^\d +16,704 +yes$", printed, re.MULTILINE)) == 4


def test_the_table_of_examples_names_every_one() -> None:
    shown = (EXAMPLES / "README.md").read_text("utf-8")
    assert set(re.findall(r"\]\((\w+\.(?:py|ipynb))\)", shown)) == FILES
