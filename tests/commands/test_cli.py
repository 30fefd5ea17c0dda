"""The command `fastinit`."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from torch import nn

import fastinit
from fastinit.commands.main import main, parser
from fastinit.manifest.manifest import Drawn, Written
from fastinit.manifest.read import load
from fastinit.manifest.words import law, std

MODELS = """
import warnings

import torch
from torch import nn

import fastinit


def plain():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def forgets():
    model = plain()
    model.extra = nn.Parameter(torch.empty(5))
    nn.init.trunc_normal_(model[0].weight, std=0.02, a=-0.04, b=0.04)
    return model


class Net(fastinit.BaseModule):
    def __init__(self):
        super().__init__(
            [
                dict(type="Normal", layer="Linear", std=0.01),
                dict(type="Constant", layer="Linaer", val=1),
            ]
        )
        self.linear = nn.Linear(2, 2)


def warns():
    warnings.warn("of the model itself", FutureWarning)
    return forgets()


def deep(depth=20, std=0.2):
    layers = [nn.Linear(64, 64, bias=False) for _ in range(depth)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=std)
    return nn.Sequential(*layers)


def wide(width):
    return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 2))


def batch():
    return (torch.ones(2, 64),)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.0)


there = plain()
number = 3


def broken():
    raise LookupError("of the model itself")
"""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "80")


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"\s+", " ", capsys.readouterr().out)


class TestPlan:
    @pytest.mark.parametrize("where", ["some_models", "some_models.py"])
    def test_a_table(self, where: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", f"{where}:plain"]) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= 80
        assert "\x1b" not in shown, "colours are for terminals"
        assert "U(±0.577)" in shown
        assert "7 tensors, 33 values: 6 filled, 1 computed" in shown

    def test_what_stands_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", "some_models:forgets"]) == 1
        shown = told(capsys)
        assert "extra 5 unwritten" in shown
        assert "truncated N(0," in shown
        assert "1 unwritten; 1 written more than once" in shown

    def test_the_rules_of_an_init_cfg(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", "some_models:Net"]) == 0
        shown = told(capsys)
        assert "N(0, 0.01²)" in shown
        assert "matches nothing: ConstantInit: val=1, bias=0 of Net" in shown
        assert main(["plan", "some_models:Net", "--no-init-weights"]) == 0
        assert "U(±0.707)" in told(capsys)

    def test_warnings_of_the_model_are_shown_and_ours_told(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.warns(FutureWarning, match="of the model itself") as caught:
            main(["plan", "some_models:warns"])
        assert [each.category for each in caught] == [FutureWarning]
        assert "unwritten" in told(capsys)

    def test_json_is_the_manifest(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", "some_models:plain", "--json", "--seed", "7"]) == 0
        manifest = load(capsys.readouterr().out)
        assert manifest.named("0.weight").fills[0].seed == 7
        with fastinit.fused(seed=7) as plan:
            model = fastinit.build(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
        assert [t.name for t in plan.manifest().tensors] == [t.name for t in manifest.tensors]
        assert fastinit.verify(model, manifest)["0.weight"] is True

    def test_a_page(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        page = tmp_path / "a.html"
        assert main(["plan", "some_models:forgets", "--html", str(page)]) == 1
        text = page.read_text()
        rows = json.loads(text.partition("const rows = ")[2].partition(";\n")[0])
        assert [row["parameter"] for row in rows if row["status"] == "flagged"] == ["extra"]
        assert not re.search(r"(src|href)=|https?://|url\(", text), "it needs no network"
        assert text.count("<script>") == text.count("</script>") == 1
        assert "unwritten" in told(capsys)


ERRORS = {
    "some_models": "names no function: write package.module:function",
    "some_models:plian": "some_models has no 'plian'; did you mean 'plain'?",
    "some_models:there": "is a Sequential that exists; name a function that makes it",
    "some_models:number": "is a int, and no function",
    "no_such_models:plain": "No module named 'no_such_models'",
    "no/such/file.py:plain": "there is no file 'no/such/file.py'",
    "some_models:broken": "LookupError: of the model itself",
}


@pytest.mark.parametrize("given", ERRORS)
def test_errors_are_a_line(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", given]) == 2
    captured = capsys.readouterr()
    assert ERRORS[given] in captured.err
    assert captured.err.startswith("fastinit plan: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_the_traceback_is_shown_if_it_is_asked_for() -> None:
    with pytest.raises(LookupError):
        main(["plan", "some_models:broken", "--traceback"])


class TestVerify:
    def test_a_checkpoint(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with fastinit.fused(seed=1) as plan:
            model = fastinit.build(lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
        (tmp_path / "manifest.json").write_text(plan.to_json())
        with torch.no_grad():
            model[0].weight.add_(1)
        torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth")
        assert main(["verify", "a.pth", "manifest.json"]) == 1
        shown = told(capsys)
        assert "0.bias as initialised" in shown
        assert "0.weight" not in shown
        assert "3 as initialised, 1 changed" in shown
        assert main(["verify", "a.pth", "manifest.json", "--all"]) == 1
        assert "0.weight changed" in told(capsys)
        for parameter in model.parameters():
            parameter.data.add_(1)
        torch.save(model.state_dict(), tmp_path / "a.pth")
        assert main(["verify", "a.pth", "manifest.json"]) == 0
        assert told(capsys).strip() == "4 changed"

    def test_what_cannot_be_compared_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with fastinit.fused(seed=1) as plan:
            model = fastinit.build(lambda: nn.Linear(3, 4))
        (tmp_path / "manifest.json").write_text(plan.to_json())
        torch.save({f"module.{n}": t for n, t in model.state_dict().items()}, tmp_path / "a.pth")
        assert main(["verify", "a.pth", "manifest.json"]) == 2
        assert "the first is called 'module.weight', and 'weight'" in capsys.readouterr().err
        assert main(["verify", "a.pth", "a.pth"]) == 2
        assert "a.pth is no manifest, which is JSON" in capsys.readouterr().err


class TestReport:
    def test_a_model(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", "some_models:plain"]) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= 80
        assert "6 tensors, 32 values: none flagged" in shown

    @pytest.mark.parametrize("given", ["8,64", "some_models:batch"])
    def test_a_signal(self, given: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", "some_models.py:deep", "--input", given]) == 1
        shown = told(capsys)
        assert "activation explodes" in shown, "0.2 * 8 a layer is 10^4 in all"
        assert "gradient explodes" in shown
        assert "20 tensors, 81,920 values: none flagged" in shown

    def test_a_checkpoint_and_its_manifest(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with fastinit.fused(seed=1) as plan:
            model = fastinit.build(lambda: nn.Linear(300, 40))
        (tmp_path / "manifest.json").write_text(plan.to_json())
        save_file({"weight": model.weight.detach() * 2}, tmp_path / "a.safetensors")
        assert main(["report", "a.safetensors"]) == 0
        assert main(["report", "a.safetensors", "--manifest", "manifest.json"]) == 1
        assert re.search(r"std 0.06\d+, its rule asks for 0.0333", told(capsys))

    def test_two(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        torch.save(model.state_dict(), "a.pth")
        torch.save({"model": {"weight": model.weight * 1.5, "bias": model.bias}}, "b.pth")
        assert main(["report", "a.pth", "b.pth", "--json"]) == 0
        changes = {c["name"]: c for c in json.loads(capsys.readouterr().out)["changes"]}
        assert changes["weight"]["change"] == pytest.approx(0.5, rel=1e-6)
        assert changes["bias"]["is_equal"]
        assert main(["report", "a.pth", "b.pth"]) == 0
        assert "2 tensors in both: 1 equal" in told(capsys)

    def test_widths(self, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["report", "some_models:wide", "--widths", "64,512", "--input", "8,8"]
        assert main(command) == 1, "Adam with one rate for all"
        assert "grow with the width: 2" in told(capsys)
        assert main([*command, "--optimizer", "some_models:sgd", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["widths"] == [64, 512]

    @pytest.mark.parametrize("dark", [(), ("--dark",)], ids=["light", "dark"])
    def test_pictures(
        self, tmp_path: Path, dark: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["report", "some_models:deep", "--input", "2,64", "--json"]
        main([*command, "--png", "a.png", "--html", "a.html", *dark])
        json.loads(capsys.readouterr().out)
        main([*command[:-1], "--html", "a.html"])
        assert "a.html" in told(capsys)
        pixels = matplotlib.image.imread(tmp_path / "a.png")
        assert pixels.shape[1] >= 1200, "legible at the width of a README"
        assert (pixels[0, 0, :3].mean() < 0.5) == bool(dark)
        assert "some_models:deep" in (tmp_path / "a.html").read_text()

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["nothing.safetensors"], "nothing.safetensors"),
            (["some_models:plain", "--input", "3,x"], "a shape as in 8,3,224,224"),
            (["some_models:plain", "--input", "3,0"], "got '3,0'"),
            (["some_models:plain", "--widths", "1,2"], "give it a batch by --input"),
            (["some_models:plain", "--widths", "1,2", "--input", "1,3"], "of one argument"),
            (["some_models:plain", "--widths", "a", "--input", "1,3"], "numbers as in 128,256"),
            (["a.pth", "--widths", "1,2", "--input", "1,3"], "takes one MODULE:FACTORY"),
            (["a.pth"] * 3, "one model or two are reported on, got 3"),
            (["some_models:plain", "some_models:plain", "--input", "1,3"], "two are compared"),
            (["some_models:broken"], "LookupError: of the model itself"),
        ],
    )
    def test_errors(
        self, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["report", *given]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert "Traceback" not in captured.err
        assert captured.out == ""


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = told(capsys)
    assert f"fastinit: {fastinit.__version__}, torch {torch.__version__}" in shown
    assert "native kernels: " in shown
    code = "import sys; sys.modules['fastinit._C'] = None; from fastinit.commands.main import main"
    command = [sys.executable, "-c", f"{code}; sys.exit(main(['doctor']))"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"problem +native kernels: .*not installed", done.stdout)


def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick", "--rounds", "2", "--png", "bench.png"]) == 0
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.partition("fastinit 0")[0].splitlines()) <= 80
    rows = [line for line in shown.splitlines() if line.startswith("| ") and "us |" in line]
    assert len(rows) == 12
    ratios = [float(row.split("|")[6].strip().removesuffix("x")) for row in rows]
    assert all(ratio > 0 for ratio in ratios)
    bars = [row.count("\u2588") for row in rows]
    for bar, ratio in zip(bars, ratios, strict=True):
        assert bar == pytest.approx(max(3 * math.log2(ratio), 0), abs=0.7), "of a rounded ratio"
    assert matplotlib.image.imread("bench.png").shape[1] >= 1200, "legible in a README"
    assert f"torch {torch.__version__}" in shown


class TestCompletion:
    @pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
    @pytest.mark.parametrize(
        ("typed", "completed"),
        [
            ("fastinit rep", {"report"}),
            ("fastinit report --pn", {"--png"}),
            ("fastinit report some_m", {"some_models.py"}),
            ("fastinit plan some_m", {"some_models.py"}),
            ("fastinit verify a.pth some_m", {"some_models.py"}),
        ],
    )
    def test_of_bash(
        self, typed: str, completed: set[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As bash itself calls it, when the tab key is pressed behind what was typed."""
        assert main(["completion", "bash"]) == 0
        words = typed.split()
        asked = (
            f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
            f"$(complete -p fastinit | sed 's/.*-F \\([^ ]*\\).*/\\1/') fastinit '{words[-1]}' "
            f"'{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        script = capsys.readouterr().out + "\n" + asked
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert set(done.stdout.split()) == completed, done.stderr

    @pytest.mark.parametrize("shell", ["zsh", "tcsh"])
    def test_of_others(self, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["completion", shell]) == 0
        assert "report" in capsys.readouterr().out

    def test_without_shtab(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "shtab", None)
        assert main(["completion", "bash"]) == 2
        assert "fastinit[completion]" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert "fastinit plan my_project.models:make_resnet" in parser().format_help()
    with pytest.raises(SystemExit) as end:
        main(["plan", "--help"])
    assert end.value.code == 0
    assert "--html" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-m", "fastinit", "--version"], capture_output=True, text=True
    )
    assert done.stdout == f"fastinit {fastinit.__version__}\n"


# --- words ----------------------------------------------------------------------------------------


def written(rule: str, tail: tuple[tuple[str, dict[str, float]], ...] = (), **p: float) -> Written:
    drawn = Drawn(rule, p, "w", 1, tail=tail)
    return Written("w", (2, 2), "float32", "filled", (drawn,))


WORDS = [
    (written("constant", value=0.0), "constant 0", 0.0),
    (written("uniform", a=-0.5, b=0.5), "U(±0.5)", 1 / 12**0.5),
    (written("uniform", a=0.0, b=2.0), "U(0, 2)", 2 / 12**0.5),
    (written("normal", mean=0.0, std=0.02), "N(0, 0.02²)", 0.02),
    (written("normal", (("mul", {"other": 2.0}),), mean=1.0, std=3.0), "N(1, 3²), mul(2)", 6.0),
    (written("normal", (("clamp", {"min": 0.0}),), mean=0.0, std=1.0), "N(0, 1²), clamp(0)", None),
    (Written("w", (2,), "float32", "unwritten"), "unwritten", None),
]


@pytest.mark.parametrize(("tensor", "words", "deviation"), WORDS, ids=lambda x: str(x)[:30])
def test_laws_in_words(tensor: Written, words: str, deviation: float | None) -> None:
    assert law(tensor) == words
    found = std(tensor)
    assert found is None if deviation is None else found == pytest.approx(deviation)


@pytest.mark.parametrize(
    ("a", "b"),
    [(-2.0, 2.0), (-1.0, 0.5), (0.5, 3.0), (5.0, 6.0), (-6.0, -5.0), (-9.0, float("inf"))],
)
def test_the_spread_of_a_truncated_normal_is_scipys(a: float, b: float) -> None:
    tensor = written("trunc_normal", mean=1.0, std=0.5, a=1 + a / 2, b=1 + b / 2)
    assert std(tensor) == pytest.approx(0.5 * float(stats.truncnorm(a, b).std()), rel=1e-6)
    assert law(tensor).startswith("truncated N(1, 0.5²), ")


@pytest.mark.parametrize("a", [0.0, 1.0, 9.0, -30.0])
def test_a_narrow_window_is_uniform(a: float) -> None:
    for width in (0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3):
        tensor = written("trunc_normal", mean=0.0, std=1.0, a=a, b=a + width)
        expected = (a + width - a) / 12**0.5
        assert std(tensor) == pytest.approx(expected, rel=1e-3)
    far = written("trunc_normal", mean=0.0, std=1.0, a=60.0, b=61.0)
    assert std(far) is None
