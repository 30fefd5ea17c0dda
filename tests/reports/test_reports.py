"""Reports: numbers against NumPy's, flags for what is wrong, pictures that are drawn."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import fastinit
from fastinit.reports.rows import grouped, pattern
from fastinit.reports.signal import signal
from fastinit.reports.values import BINS, REACH


def mlp(depth: int = 4, width: int = 64, std: float | None = None) -> nn.Sequential:
    layers = [nn.Linear(width, width) for _ in range(depth)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=std or math.sqrt(2 / width))
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))


def built(make: Any) -> tuple[nn.Module, fastinit.Plan]:
    with fastinit.fused(0) as plan:
        model = fastinit.build(make, strict=False)
    return model, plan


class TestValues:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_numbers_are_numpys(self, dtype: torch.dtype) -> None:
        value = (torch.randn(300, 50, generator=torch.Generator().manual_seed(0)) * 3 + 1).to(dtype)
        value[0, :5] = 0
        value[1, 0], value[1, 1] = math.inf, math.nan
        (found,) = fastinit.report({"w": value}).tensors
        finite = value.double().numpy()[np.isfinite(value.double().numpy())]
        assert found.mean == pytest.approx(finite.mean(), rel=1e-12)
        assert found.std == pytest.approx(finite.std(), rel=1e-12)
        assert (found.low, found.high) == (finite.min(), finite.max())
        assert found.zeros == pytest.approx((finite == 0).mean())
        assert found.non_finite == 2
        scaled = ((finite - finite.mean()) / finite.std()).clip(-REACH, REACH)
        expected, _ = np.histogram(scaled, BINS, (-REACH, REACH))
        assert np.abs(np.array(found.counts) - expected).sum() <= 4, "at the edges of bins"
        assert sum(found.counts) == finite.size

    def test_what_the_rule_asked_for(self) -> None:
        model, plan = built(mlp)
        reported = fastinit.report(model, manifest=plan)
        first = next(t for t in reported.tensors if t.name == "0.weight")
        assert first.law == "N(0, 0.177²)"
        assert first.expected == pytest.approx(math.sqrt(2 / 64))
        assert not reported.flags

    def test_laws_are_not_flagged_by_chance(self) -> None:
        """Of 200 small tensors none is further from its rule than six sigmas."""
        with fastinit.fused(1) as plan:
            model = fastinit.build(lambda: nn.ModuleList(nn.Linear(3, 5) for _ in range(100)))
        assert not fastinit.report(model, manifest=plan.to_json()).flags

    def test_flags(self) -> None:
        def make() -> nn.Module:
            model = nn.Sequential(*(nn.Linear(30, 30) for _ in range(6)))
            nn.init.ones_(model[1].weight)
            nn.init.zeros_(model[2].weight)
            model.extra = nn.Parameter(torch.empty(7))
            return model

        model, plan = built(make)
        with torch.no_grad():
            model[0].weight.mul_(1.5)
            model[3].bias[2] = math.nan
            model[5].weight.copy_(model[4].weight)
            model.extra.fill_(3)
        flags = fastinit.report(model, manifest=plan).flags
        assert flags.pop("0.weight")[0].startswith("std 0.15")
        assert flags == {
            "1.weight": ("all values are 1: its units stay alike",),
            "3.bias": ("1 values are not finite",),
            "5.weight": ("has the values of 4.weight",),
            "extra": ("nothing has written it",),
        }, "zeros were asked for"
        assert fastinit.report(model).flags["2.weight"] == ("all values are 0",)

    def test_a_manifest_that_lacks_a_tensor(self) -> None:
        model, plan = built(mlp)
        model.extra = nn.Parameter(torch.randn(50, 50))
        reported = fastinit.report(model, manifest=plan)
        told = {t.name: (t.law, t.expected) for t in reported.tensors}
        assert told["extra"] == ("", None)
        assert told["0.weight"] == ("N(0, 0.177²)", pytest.approx(0.17678, abs=1e-4))
        assert "extra" not in reported.flags

    def test_ties_are_one_tensor(self) -> None:
        model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20, bias=False))
        model[1].weight = model[0].weight
        assert [t.name for t in fastinit.report(model).tensors] == ["0.weight"]
        found = fastinit.report(model.state_dict())
        assert [t.name for t in found.tensors] == ["0.weight", "1.weight"], "as the mapping has it"
        assert not found.flags, "no copy, but one tensor"

    def test_refusals(self) -> None:
        with torch.device("meta"):
            model = nn.Linear(2, 2)
        with pytest.raises(ValueError, match=r"'weight' is on meta memory.*materialize"):
            fastinit.report(model)
        with pytest.raises(TypeError, match=r"module or a mapping from names to tensors, got list"):
            fastinit.report([])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"no floating-point parameters"):
            fastinit.report({"step": torch.tensor(3)})
        with pytest.raises(TypeError, match=r"inputs need a module"):
            fastinit.report({"w": torch.ones(2)}, torch.ones(2))
        with pytest.raises(ValueError, match=r"returned str.*loss="):
            fastinit.report(Named(), torch.ones(1, 2))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> str:
        self.linear(x)
        return "done"


class TestSignal:
    def test_against_autograd(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
        inputs = torch.randn(5, 8)
        found = signal(model, inputs, lambda y: y.square().sum())
        hidden = model[0](inputs)
        hidden.retain_grad()
        out = model[2](hidden.relu())
        out.retain_grad()
        out.square().sum().backward()
        assert [layer.kind for layer in found] == ["Linear", "ReLU", "Linear"]
        for layer, value in ((found[0], hidden), (found[2], out)):
            assert value.grad is not None
            assert layer.activation == pytest.approx(
                float(value.detach().square().mean().sqrt()), rel=1e-5
            )
            assert layer.gradient == pytest.approx(
                float(value.grad.square().mean().sqrt()), rel=1e-5
            )

    def test_the_model_stays_as_it_was(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        model[0].weight.grad = torch.ones(4, 4)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        state = torch.get_rng_state()
        first = fastinit.report(model, torch.randn(6, 4, generator=torch.Generator()))
        again = fastinit.report(model, torch.randn(6, 4, generator=torch.Generator()))
        assert first == again, "dropout is the same"
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(model[0].weight.grad, torch.ones(4, 4))
        assert model[1].bias.grad is None
        assert not model[0]._forward_hooks

    def test_good_gain_keeps_the_scale(self) -> None:
        layers = fastinit.report(mlp(30, 256), torch.randn(64, 256)).layers
        assert not any(layer.flags for layer in layers)
        assert 0.2 < layers[-1].activation < 5

    @pytest.mark.parametrize(("std", "word"), [(0.02, "vanishes"), (0.5, "explodes")])
    def test_vanishing_and_exploding(self, std: float, word: str) -> None:
        flags = fastinit.report(mlp(12, 256, std), torch.randn(16, 256)).flags
        assert f"activation {word}" in flags["23"][0]
        assert f"gradient {word}" in " ".join(flags["0"])

    def test_dead_layers(self) -> None:
        model = mlp(3)
        nn.init.constant_(model[2].bias, -1e4)
        flags = fastinit.report(model, torch.randn(9, 64)).flags
        assert "its output is zero" in flags["3"]
        assert "no gradient arrives" in flags["0"]

    def test_layers_with_a_unit_that_lives(self) -> None:
        model = mlp(3, 200)
        nn.init.constant_(model[2].bias, -1e4)
        with torch.no_grad():
            model[2].bias[7] = 30
        flags = fastinit.report(model, torch.randn(9, 200)).flags
        assert flags["3"] == ("99.5% of its output is zero",)

    def test_gradients_that_are_not_finite(self) -> None:
        reported = fastinit.report(mlp(2), torch.randn(9, 64), loss=lambda y: (y * 0).sqrt().sum())
        for layer in reported.layers:
            assert "its gradient is not finite" in layer.flags, layer
            assert math.isfinite(layer.activation)

    def test_frozen_models_need_no_gradient(self) -> None:
        model = mlp(2).requires_grad_(False)
        layers = fastinit.report(model, torch.randn(9, 64)).layers
        assert {layer.gradient for layer in layers} == {None}
        assert not any(layer.flags for layer in layers)

    def test_keywords_and_blocks(self) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            n_layer=3, n_embd=32, n_head=2, vocab_size=50, n_positions=16, use_cache=False,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        model = fastinit.build(lambda: GPT2LMHeadModel(config), seed=0)
        reported = fastinit.report(model, {"input_ids": torch.arange(16)[None]})
        blocks = [layer.name for layer in reported.layers if layer.is_block]
        assert blocks == [f"transformer.h.{n}" for n in range(3)]


class TestWidths:
    @staticmethod
    def wide(width: int, power: float) -> nn.Module:
        """Widths of 64 * 2^n with hidden weights of standard deviation width^power."""
        torch.manual_seed(width)
        model = nn.Sequential(nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4))
        for layer in model:
            nn.init.zeros_(layer.bias)
        nn.init.normal_(model[0].weight)
        nn.init.normal_(model[1].weight, std=width**power)
        return model

    @pytest.mark.parametrize("power", [-0.5, 0.0])
    def test_exponents_are_those_of_the_law(self, power: float) -> None:
        batch = torch.randn(32, 16)
        found = fastinit.coordinate_check(
            lambda width: self.wide(width, power), (64, 128, 256, 512), batch,
            optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.0),
        )  # fmt: skip
        exponents = found.exponents(0)
        assert exponents["0"] == pytest.approx(0, abs=0.1)
        assert exponents["1"] == pytest.approx(power + 0.5, abs=0.1)
        assert ("1" in found.growing) == (power == 0)
        assert found.sizes[0] == found.sizes[-1], "nothing was learnt at a rate of 0"

    def test_mup_passes_and_adam_without_its_rates_fails(self) -> None:
        def make(width: int) -> nn.Module:
            torch.manual_seed(1)
            model = nn.Sequential(
                nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                nn.Linear(width, 4),
            )  # fmt: skip
            rules = [
                dict(type="MuP", layer="Linear", std=0.1, base_fan_in=64),
                dict(type="Constant", layer="Linear", val=0, params="*.bias"),
            ]
            roles = {"0": "input", "2": "hidden", "4": "output"}
            for name, role in roles.items():
                rule = dict(rules[0], role=role, base_fan_in=16 if role == "input" else 64)
                fastinit.initialize(model.get_submodule(name), rule)
            return model

        def rates(model: nn.Module) -> torch.optim.Optimizer:
            width = model[2].in_features
            return torch.optim.Adam(
                [
                    {"params": [*model[0].parameters(), model[2].bias, model[4].bias], "lr": 0.01},
                    {"params": [model[2].weight, model[4].weight], "lr": 0.01 * 64 / width},
                ]
            )

        batch, widths = torch.randn(32, 16, generator=torch.Generator().manual_seed(0)), (64, 512)
        assert not fastinit.coordinate_check(make, widths, batch, optimizer=rates).growing

        def plain(model: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.Adam(model.parameters(), lr=0.01)

        assert "2" in fastinit.coordinate_check(make, widths, batch, optimizer=plain).growing

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match=r"widths must be two or more positive numbers"):
            fastinit.coordinate_check(lambda width: nn.Linear(2, width), [8, 8], torch.ones(1, 2))
        with pytest.raises(ValueError, match=r"steps must be positive, got 0"):
            fastinit.coordinate_check(nn.Identity, [1, 2], torch.ones(1), steps=0)
        with pytest.raises(ValueError, match=r"must not change the depth"):
            fastinit.coordinate_check(lambda n: mlp(n, 4), [1, 2], torch.ones(1, 4))


class TestCompare:
    def test_against_numpy(self) -> None:
        generator = torch.Generator().manual_seed(3)
        a, b = (torch.randn(40, 30, generator=generator) for _ in range(2))
        found = fastinit.compare(
            {"w": a, "same": a, "gone": a, "shape": a}, {"w": b, "same": a.clone(), "shape": a[1:]}
        )
        first, second = found.changes
        x, y = a.double().numpy().ravel(), b.double().numpy().ravel()
        assert first.change == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x))
        assert first.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        assert first.std == pytest.approx((x.std(), y.std()), rel=1e-9)
        assert (second.is_equal, second.change) == (True, 0)
        assert (found.only, found.reshaped) == ((("gone",), ()), ("shape",))

    def test_refusal(self) -> None:
        with pytest.raises(ValueError, match=r"no tensor of the same name: the first has 'a'"):
            fastinit.compare({"a": torch.ones(1)}, {"b": torch.ones(1)})


class TestShown:
    def test_rows_of_equal_layers(self) -> None:
        assert pattern("h.12.attn.0.w2") == "h.*.attn.*.w2"
        model = nn.ModuleList(nn.Linear(2, 2) for _ in range(20))
        labels = [label for label, _ in grouped(fastinit.report(model).tensors)]
        assert labels == ["*.weight (20)", "*.bias (20)"]

    def test_json_has_no_nan(self) -> None:
        text = fastinit.report({"w": torch.full((3,), math.nan)}).to_json()
        assert json.loads(text)["tensors"][0]["mean"] is None

    @pytest.mark.parametrize("dark", [False, True])
    def test_strips_show_the_histogram(self, dark: bool) -> None:
        """The darkest (on dark paper the brightest) bin is where most values are."""
        figure = fastinit.report(mlp(2), torch.randn(3, 64)).figure(dark=dark)
        strips, deviations, depth = figure.axes
        shades = strips.images[0].get_array()
        assert np.argmax(shades[0]) in range(BINS // 2 - 4, BINS // 2 + 4)
        assert len(strips.get_yticklabels()) == 4
        assert deviations.get_xscale() == depth.get_yscale() == "log"
        figure.canvas.draw()

    def test_importing_fastinit_imports_no_matplotlib(self) -> None:
        code = "import sys, fastinit; sys.exit(not {'matplotlib', 'rich'}.isdisjoint(sys.modules))"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0

    def test_without_matplotlib(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r"fastinit\[plot\]"):
            fastinit.report(mlp(1)).figure()


def test_normals_and_uniforms_have_their_shapes() -> None:
    """By scipy's laws: a uniform ends at the square root of 3, a normal has its quantiles."""
    (u, n) = fastinit.report(
        {"u": torch.empty(1 << 16).uniform_(-2, 2), "n": torch.empty(1 << 16).normal_()}
    ).tensors
    edges = np.linspace(-REACH, REACH, BINS + 1)
    inside = stats.norm.cdf(edges[1:]) - stats.norm.cdf(edges[:-1])
    assert np.abs(np.array(n.counts) / (1 << 16) - inside).max() < 0.01
    assert all(c == 0 for c, e in zip(u.counts, edges[:-1], strict=True) if abs(e) > 1.9)


def test_pages_hold_the_picture(tmp_path: Path) -> None:
    from fastinit.commands.report import as_page

    text = as_page(fastinit.report(mlp(2), torch.randn(3, 64)), "<model>")
    assert "&lt;model&gt;" in text
    assert text.count("data:image/svg+xml;base64,") == 2
    assert "http://" not in text
    assert "https://" not in text
