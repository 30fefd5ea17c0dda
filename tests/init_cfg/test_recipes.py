"""Initializers by papers have the laws of the libraries that define them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import copied, same
from scipy import stats
from torch import Tensor, nn

import fastinit
from bench.lib import zoo_models

SIZES = (400, 900)  # fan_in, fan_out


def linear(rule: dict[str, Any]) -> Tensor:
    torch.manual_seed(0)
    layer = nn.Linear(*SIZES)
    fastinit.initialize(layer, {"layer": "Linear", **rule})
    return layer.weight.detach()


def conv(rule: dict[str, Any]) -> Tensor:
    torch.manual_seed(0)
    layer = nn.Conv2d(60, 90, 5)
    fastinit.initialize(layer, {"layer": "Conv2d", **rule})
    return layer.weight.detach()


def is_one_law(one: Tensor, other: Tensor) -> bool:
    """Whether two large samples may be of one law: of their means, spreads, ends and shapes."""
    x, y = one.double().flatten(), other.double().flatten()
    close = abs(float(x.std() / y.std()) - 1) < 0.01 and abs(float(x.mean() - y.mean())) < 0.01
    p: float = stats.ks_2samp(x[:50_000].numpy(), y[:50_000].numpy()).pvalue
    ends = abs(float(x.max() / y.max()) - 1) < 0.3
    return close and ends and p > 1e-4


@pytest.mark.parametrize("distribution", ["untruncated_normal", "uniform"])
def test_a_dtype_that_only_torch_fills_has_the_law(distribution: str, backend: str) -> None:
    rule = {"type": "VarianceScaling", "distribution": distribution, "layer": "Linear"}
    layer = nn.Linear(*SIZES, dtype=torch.complex64)
    with fastinit.backend(backend):  # type: ignore[arg-type]
        fastinit.initialize(layer, rule)
    real = linear(rule)
    # Torch draws a complex normal of that variance in all, and a uniform of it in each part.
    parts = 2 if distribution == "untruncated_normal" else 1
    for part in (layer.weight.real, layer.weight.imag):
        assert float(part.std() / real.std()) == pytest.approx(parts**-0.5, rel=0.02)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize(
    ("distribution", "theirs"),
    [
        ("truncated_normal", "truncated_normal"),
        ("untruncated_normal", "normal"),
        ("uniform", "uniform"),
    ],
)
def test_variance_scaling_is_timms(mode: str, distribution: str, theirs: str) -> None:
    zoo_models.of("timm/resnet18")  # which lets timm be imported
    from timm.layers.weight_init import variance_scaling_

    rule = {"type": "VarianceScaling", "scale": 2.0, "mode": mode, "distribution": distribution}
    for make in (linear, conv):
        found = make(rule)
        expected = torch.empty_like(found)
        # timm's truncated normals are at two standard deviations of a unit, before it scales.
        variance_scaling_(expected, 2.0, mode, theirs)
        assert is_one_law(found, expected)


def test_truncated_normals_have_the_variance_that_is_asked_for() -> None:
    found = linear({"type": "VarianceScaling", "scale": 1.0, "mode": "fan_out"})
    assert float(found.std()) == pytest.approx(1 / math.sqrt(SIZES[1]), rel=0.01)
    wide = 1 / math.sqrt(SIZES[1]) / float(stats.truncnorm(-2, 2).std())
    assert float(found.abs().max()) <= 2 * wide
    assert float(found.abs().max()) == pytest.approx(2 * wide, rel=0.01)


def test_lecuns() -> None:
    zoo_models.of("timm/resnet18")
    from timm.layers.weight_init import lecun_normal_

    found = linear({"type": "LecunNormal"})
    expected = torch.empty_like(found)
    lecun_normal_(expected)
    assert is_one_law(found, expected)
    bound = math.sqrt(3 / SIZES[0])
    uniform = linear({"type": "LecunUniform"})
    assert -bound <= float(uniform.min()) < float(uniform.max()) < bound
    assert float(uniform.std()) == pytest.approx(1 / math.sqrt(SIZES[0]), rel=0.01)


@pytest.mark.parametrize(
    ("rule", "std"),
    [
        ({"type": "SmallInit", "dim": 512}, math.sqrt(2 / (5 * 512))),
        ({"type": "Wang", "layers": 24, "dim": 512}, 2 / 24 / math.sqrt(512)),
        ({"type": "DepthScaled", "layers": 12}, 0.02 / math.sqrt(24)),
        ({"type": "GPT2", "layers": 12, "std": 0.01}, 0.01 / math.sqrt(24)),
        ({"type": "DeepNorm", "encoder": 6}, (48) ** -0.25 * math.sqrt(2 / 1300)),
        ({"type": "DeepNorm", "decoder": 9}, (72) ** -0.25 * math.sqrt(2 / 1300)),
        (
            {"type": "DeepNorm", "encoder": 6, "decoder": 9, "part": "encoder"},
            0.87 * (6**4 * 9) ** (-1 / 16) * math.sqrt(2 / 1300),
        ),
        (
            {"type": "DeepNorm", "encoder": 6, "decoder": 9, "part": "decoder"},
            (12 * 9) ** -0.25 * math.sqrt(2 / 1300),
        ),
        ({"type": "Fixup", "blocks": 16}, math.sqrt(2 / 900) * 16**-0.5),
        ({"type": "Fixup", "blocks": 16, "layers": 3}, math.sqrt(2 / 900) * 16**-0.25),
        ({"type": "T5", "factor": 0.5}, 0.5 * 400**-0.5),
        ({"type": "T5", "d_kv": 64}, (400 * 64) ** -0.5),
        ({"type": "MuP", "std": 0.02, "base_fan_in": 100}, 0.02 / 2),
        ({"type": "MuP", "std": 0.02, "base_fan_in": 100, "role": "output"}, 0.02 / 4),
        ({"type": "MuP", "std": 0.02, "base_fan_in": 100, "role": "input"}, 0.02),
    ],
    ids=str,
)
def test_standard_deviations(rule: dict[str, Any], std: float) -> None:
    found = linear(rule)
    assert float(found.std()) == pytest.approx(std, rel=0.01)
    assert abs(float(found.mean())) < 0.01 * std * 3
    assert stats.kstest((found.flatten()[:20_000] / std).double().numpy(), "norm").pvalue > 1e-4


def test_t5_is_transformers() -> None:
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.T5Config(
        d_model=256, d_kv=64, d_ff=512, num_heads=4, num_layers=2, vocab_size=500
    )
    theirs = transformers.T5EncoderModel(config)
    ours = transformers.T5EncoderModel(config)
    for rule in (
        {"type": "Normal", "std": 1.0, "params": "shared.weight"},
        {"type": "Normal", "std": 256**-0.5, "params": "*.relative_attention_bias.weight"},
        {"type": "T5", "d_kv": 64, "params": "*.q.weight"},
        {"type": "T5", "params": ["*.k.weight", "*.v.weight", "*.o.weight", "*.w?.weight"]},
    ):
        fastinit.initialize(ours, rule)
    for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if found.numel() > 10_000:
            assert float(found.std() / expected.std()) == pytest.approx(1, rel=0.02), name


def test_gpt2_is_transformers() -> None:
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=256, n_layer=3, n_head=4, vocab_size=500)
    theirs = transformers.GPT2Model(config)
    ours = transformers.GPT2Model(config)
    rules = [
        {"type": "GPT2", "layers": 3, "params": "*.c_proj.weight"},
        {"type": "Normal", "std": 0.02, "layer": ["Conv1D", "Embedding"]},
    ]
    for rule in reversed(rules):
        fastinit.initialize(ours, rule)
    for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if found.numel() > 10_000:
            assert float(found.std() / expected.std()) == pytest.approx(1, rel=0.02), name


def test_layer_scale() -> None:
    def gamma(**given: Any) -> float:
        net = nn.Module()
        net.gamma_1 = nn.Parameter(torch.zeros(4))
        fastinit.initialize(net, {"type": "LayerScale", "params": "gamma_*", **given})
        return float(net.gamma_1[0])

    found = [gamma(depth=depth) for depth in (18, 19, 24, 25)]
    assert found == pytest.approx([0.1, 1e-5, 1e-5, 1e-6])
    assert gamma(val=0.5) == 0.5


def test_pytorchs_default_is_what_a_constructor_does(backend: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LSTM(4, 3))
    torch.manual_seed(3)
    with fastinit.fused(seed=1, root=net):
        for layer in net:
            layer.reset_parameters()
    expected = copied(net)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    with fastinit.backend("torch") if backend == "torch" else fastinit.fused(seed=1, root=net):
        fastinit.initialize(
            net, {"type": "PyTorchDefault", "layer": ["Linear", "BatchNorm1d", "LSTM"]}
        )
    if backend == "native":
        assert same(copied(net), expected)
    assert all(bool(p.any()) for p in net[0].parameters())
    with pytest.raises(ValueError, match="ReLU has no reset_parameters"):
        fastinit.initialize(nn.ReLU(), {"type": "PyTorchDefault", "layer": "ReLU"})


def test_identity_and_dirac() -> None:
    layer = nn.Linear(3, 5)
    fastinit.initialize(layer, {"type": "Identity", "layer": "Linear", "gain": 2.0, "bias": 1})
    assert torch.equal(layer.weight.detach(), 2 * torch.eye(5, 3))
    assert layer.bias.tolist() == [1.0] * 5
    for groups in (1, 2):
        convolution = nn.Conv2d(4 // groups, 4, 3, padding=1)
        rule = {"type": "Dirac", "layer": "Conv2d", "groups": groups}
        fastinit.initialize(convolution, rule)
        expected = nn.init.dirac_(torch.empty_like(convolution.weight), groups)
        assert torch.equal(convolution.weight.detach(), expected.detach())


def test_the_page_has_them_all() -> None:
    page = (Path(fastinit.__file__).parents[1] / "docs" / "recipes.md").read_text()
    ours = {
        name
        for name, entry in fastinit.WEIGHT_INITIALIZERS.module_dict.items()
        if getattr(entry, "__name__", "") in fastinit.__all__ and name not in MMENGINES
    }
    assert len(ours) >= 16
    assert {name for name in ours if f"`{name}" not in page} == set()


def test_activations_keep_their_scale_over_widths() -> None:
    """What MuP is for: a hidden layer's outputs do not depend on the width."""
    found = []
    for width in (64, 256, 1024):
        torch.manual_seed(0)
        layer = nn.Linear(width, width, bias=False)
        rule = {"type": "MuP", "std": 0.1, "base_fan_in": 64, "layer": "Linear"}
        fastinit.initialize(layer, rule)
        found.append(float(layer(torch.randn(64, width)).std()))
    assert max(found) / min(found) < 1.1


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "normal": (
        {"type": "VarianceScaling", "distribution": "normal"},
        "distribution must be one of 'truncated_normal', 'untruncated_normal', 'uniform', got 'no",
    ),
    "mode": ({"type": "VarianceScaling", "mode": "fan"}, "mode must be one of 'fan_in', 'fan_out'"),
    "scale": ({"type": "VarianceScaling", "scale": 0}, "scale must be a positive number, got 0"),
    "layers": ({"type": "GPT2", "layers": "12"}, "layers must be a positive number, got '12'"),
    "both": ({"type": "DeepNorm", "encoder": 1, "decoder": 1}, "part must be 'encoder' or"),
    "none": ({"type": "DeepNorm"}, "give encoder= or decoder= layers, got 0 and 0"),
    "branch": ({"type": "Fixup", "blocks": 4, "layers": 1}, "layers must be at least 2"),
    "role": ({"type": "MuP", "std": 1.0, "base_fan_in": 4, "role": "x"}, "role must be one of"),
    "neither": ({"type": "LayerScale"}, "give depth= or val=, one of them, got None and None"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    rule, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        fastinit.initialize(nn.Linear(2, 2), {"layer": "Linear", **rule})


MMENGINES = {
    *("Constant", "Xavier", "Normal", "TruncNormal"),
    *("Uniform", "Kaiming", "Caffe2Xavier", "Pretrained"),
}
RULES: dict[str, Callable[[], dict[str, Any]]] = {
    "VarianceScaling": lambda: {"mode": "fan_avg"},
    "T5": lambda: {"d_kv": 8},
    "MuP": lambda: {"std": 0.1, "base_fan_in": 8},
    "Fixup": lambda: {"blocks": 3},
    "DeepNorm": lambda: {"encoder": 3},
}


@pytest.mark.parametrize("name", RULES)
def test_fan_groups_and_recurrent_layers(name: str) -> None:
    """Each matrix of a fused weight has the law of its own shape."""
    rule = {"type": name, **RULES[name]()}
    alone = nn.Linear(400, 300)
    fused_weight = nn.Linear(400, 900)
    torch.manual_seed(0)
    fastinit.initialize(alone, {"layer": "Linear", **rule})
    with fastinit.fan_groups({"weight": [300, 300, 300]}):
        fastinit.initialize(fused_weight, {"layer": "Linear", **rule})
    ratio = float(fused_weight.weight.std() / alone.weight.std())
    assert ratio == pytest.approx(1, rel=0.01)
    lstm = nn.LSTM(400, 300)
    fastinit.initialize(lstm, {"layer": "LSTM", **rule})
    ratio = float(lstm.weight_ih_l0.std() / alone.weight.std())
    assert ratio == pytest.approx(1, rel=0.01)
