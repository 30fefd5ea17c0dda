"""Rules on recurrent layers, on computed weights, on convolutions by group and on embeddings."""

from __future__ import annotations

import math
import warnings
from typing import Any

import mmengine.model
import pytest
import torch
from modules import copied, net, same
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import fastinit
from fastinit import build, init, initialize


class Flagged(nn.Module):
    """A layer whose `bias` tells whether it has one, as some libraries' attention."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.bias = True
        self.inner = nn.Linear(2, 2)
        if own:
            self.shift = nn.Parameter(torch.zeros(2))


class Listed(nn.Module):
    """A layer whose `weight` is a list of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.ParameterList([torch.zeros(2)])


def test_a_weight_of_several_tensors_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="its weight is ParameterList, and not a tensor"):
        initialize(net(listed=Listed()), {"type": "Normal", "layer": "Listed"})


def test_lazy_layers_are_refused_by_name(backend: str) -> None:
    model = net(lazy=nn.LazyLinear(3))
    with fastinit.backend(backend), pytest.raises(ValueError, match="LazyLinear 'lazy' of Module"):
        initialize(model, {"type": "Xavier", "layer": "LazyLinear"})


class TestFlags:
    """A `bias` that is no tensor."""

    def test_of_a_layer_without_parameters_is_a_flag(self, backend: str) -> None:
        model = net(attention=Flagged(own=False))
        with fastinit.backend(backend):
            override = {"type": "Constant", "val": 2, "bias": 3, "name": "attention"}
            initialize(model, {"type": "Normal", "override": override})
        assert bool((model.attention.inner.bias == 3).all())  # type: ignore[union-attr]

    def test_of_one_with_parameters_is_refused_by_name(self, backend: str) -> None:
        model = net(attention=Flagged(own=True))
        message = r"Flagged 'attention' of Module: its bias is True.*params='\*.shift'"
        with fastinit.backend(backend), pytest.raises(ValueError, match=message):
            initialize(model, {"type": "Normal", "layer": "Flagged"})


def test_a_layer_of_which_a_rule_writes_nothing_is_told_of() -> None:
    model = net(attention=nn.MultiheadAttention(4, 2))
    before = copied(model)
    message = r"does not write attention.in_proj_weight, .* of MultiheadAttention.*params="
    with pytest.warns(UserWarning, match=message):
        initialize(model, {"type": "Normal", "layer": "MultiheadAttention"})
    assert same(copied(model), before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        initialize(model, {"type": "Constant", "val": 2, "params": "*.in_proj_weight"})
    assert bool((model.attention.in_proj_weight == 2).all())  # type: ignore[union-attr]


class Halves(nn.Module):
    """A parametrization without a way back."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Doubles(Halves):
    """A parametrization with a way back."""

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * 2


WAYS_BACK = [
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    lambda layer: parametrize.register_parametrization(layer, "weight", Doubles()),
]


def _weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


HOOKED: list[Any] = [
    _weight_norm,
    nn.utils.spectral_norm,
    lambda layer: prune.random_unstructured(layer, "weight", 0.5),
]


class TestComputed:
    """Weights that are computed from other parameters."""

    @pytest.mark.parametrize("parametrized", WAYS_BACK)
    def test_a_way_back_is_taken(self, parametrized: Any, backend: str) -> None:
        conv = nn.Conv2d(8, 16, 3)
        plain = net(conv=nn.Conv2d(8, 16, 3))
        model = net(conv=parametrized(conv))
        rule = {"type": "Kaiming", "layer": ["Conv2d", "ParametrizedConv2d"], "bias": 2}
        for each in (model, plain):
            torch.manual_seed(5)
            with fastinit.backend(backend):
                initialize(each, rule)
        found = model.conv.weight if parametrized is not WAYS_BACK[1] else _unscaled(model.conv)
        torch.testing.assert_close(found, plain.conv.weight)  # type: ignore[union-attr]
        assert bool((model.conv.bias == 2).all())  # type: ignore[union-attr]

    def test_the_parameters_stay_the_same_objects(self) -> None:
        linear = parametrizations.weight_norm(nn.Linear(4, 4))
        before = list(linear.parameters())
        fastinit.normal_init(linear)
        assert all(a is b for a, b in zip(before, linear.parameters(), strict=True))

    def test_a_failed_call_leaves_them_as_they_were(self) -> None:
        model = net(first=parametrizations.weight_norm(nn.Linear(4, 4)), norm=nn.LayerNorm(4))
        before = copied(model)
        rules = [{"type": "Kaiming", "layer": name} for name in ("Linear", "LayerNorm")]
        with fastinit.backend("native"), pytest.raises(ValueError, match="fewer than 2"):
            initialize(model, rules)
        assert same(copied(model), before)

    def test_others_are_told_of(self, backend: str) -> None:
        linear = nn.Linear(4, 4)
        parametrize.register_parametrization(linear, "weight", Halves())
        model = net(stem=net(linear=linear))
        before = copied(model)
        rule = {"type": "Constant", "val": 3, "layer": "ParametrizedLinear"}
        with (
            fastinit.backend(backend),
            pytest.warns(UserWarning, match="no effect on stem.linear.weight: computed from other"),
        ):
            initialize(model, rule)
        with (
            fastinit.backend(backend),
            pytest.warns(UserWarning, match="no effect on stem.linear.weight: computed from other"),
        ):
            initialize(model, {"type": "Constant", "val": 3, "params": "*.weight"})
        after = copied(model)
        assert all(torch.equal(before[n], after[n]) for n in before if not n.endswith("bias"))
        assert bool((linear.bias == 0).all())
        # The way that the message names.
        initialize(model, {"type": "Constant", "val": 3, "params": "*.parametrizations.weight.*"})
        assert bool((linear.weight == 1.5).all())

    @pytest.mark.parametrize("hooked", HOOKED)
    def test_hooks_have_plain_ways_back(self, hooked: Any, backend: str) -> None:
        model, plain = net(conv=hooked(nn.Conv2d(8, 16, 3))), net(conv=nn.Conv2d(8, 16, 3))
        for each in (model, plain):
            torch.manual_seed(5)
            with fastinit.backend(backend):
                initialize(each, {"type": "Kaiming", "layer": "Conv2d"})
        conv: Any = model.conv
        expected: Any = plain.conv.weight
        if hooked is HOOKED[0]:
            torch.testing.assert_close(conv.weight, expected)
            conv(torch.ones(1, 8, 3, 3))  # which computes it anew
            torch.testing.assert_close(conv.weight, expected)
        else:
            std = expected.detach().std().item()
            assert conv.weight_orig.detach().std().item() == pytest.approx(std, rel=0.05)

    @pytest.mark.parametrize("hooked", HOOKED[1:])
    @pytest.mark.parametrize("runs", [False, True])
    def test_spectral_norm_is_mmengines(self, hooked: Any, runs: bool) -> None:
        """Which writes what is scaled, as long as no forward pass has run; and so do we after."""
        found = []
        for library in (fastinit, mmengine.model):
            torch.manual_seed(1)
            model = net(conv=hooked(nn.Conv2d(4, 4, 3)), linear=nn.Linear(4, 4))
            if runs and library is fastinit:
                model.conv(torch.ones(1, 4, 3, 3))  # type: ignore[operator]
            torch.manual_seed(2)
            with fastinit.backend("torch"):
                library.initialize(model, {"type": "Normal", "layer": ["Conv2d", "Linear"]})
            found.append(copied(model))
        ours, theirs = found
        assert torch.equal(ours["linear.weight"], theirs["linear.weight"])
        if hooked is HOOKED[1]:
            assert torch.equal(ours["conv.weight_orig"], theirs["conv.weight_orig"])

    @pytest.mark.parametrize("normed", [parametrizations.weight_norm, HOOKED[0]])
    def test_what_has_no_finite_values_is_refused(self, normed: Any, backend: str) -> None:
        model = net(linear=normed(nn.Linear(4, 4)))
        before = copied(model)
        rule = {"type": "Constant", "val": 0, "layer": ["Linear", "ParametrizedLinear"]}
        message = "'linear' of Module.*its weight cannot be that.*rows of zeros"
        with fastinit.backend(backend), pytest.raises(ValueError, match=message):
            initialize(model, rule)
        assert same(copied(model), before)

    @pytest.mark.parametrize(
        "parametrized",
        [parametrizations.orthogonal, parametrizations.spectral_norm, *HOOKED],
    )
    def test_a_later_error_restores_all_that_it_is_made_of(self, parametrized: Any) -> None:
        model = net(linear=parametrized(nn.Linear(4, 4)), norm=nn.LayerNorm(4))
        before = copied(model)
        names = ["Linear", "ParametrizedLinear"]
        rules = [{"type": "Normal", "layer": names}, {"type": "Kaiming", "layer": "LayerNorm"}]
        with fastinit.backend("native"), pytest.raises(ValueError, match="fewer than 2"):
            initialize(model, rules)
        assert same(copied(model), before)

    def test_recurrent_weights_too(self) -> None:
        layer = nn.LSTM(4, 4)
        parametrizations.weight_norm(layer, "weight_hh_l0")
        fastinit.constant_init(layer, 3)
        torch.testing.assert_close(layer.weight_hh_l0, torch.full((16, 4), 3.0))
        halved = nn.LSTM(4, 4)
        parametrize.register_parametrization(halved, "weight_ih_l0", Halves())
        before = halved.weight_ih_l0.clone()
        with pytest.warns(UserWarning, match="the weight_ih_l0 of this ParametrizedLSTM is comp"):
            fastinit.constant_init(halved, 3)
        assert torch.equal(halved.weight_ih_l0, before)
        assert bool((halved.weight_hh_l0 == 3).all())

    def test_in_a_constructor_it_has_no_name_yet(self) -> None:
        def made() -> nn.Module:
            linear = parametrizations.weight_norm(nn.Linear(64, 64))
            fastinit.xavier_init(linear)
            return linear

        with pytest.raises(ValueError, match=r"original1 .*: drawn before the tensor had a name"):
            build(made, seed=1)
        linear: Any = build(made, seed=1, strict=False)
        assert 0.9 < linear.weight.std() / (2 / 128) ** 0.5 < 1.1


def _unscaled(layer: Any) -> Tensor:
    """Return the weight of which a spectral norm makes its own, by dividing it."""
    weight: Tensor = layer.parametrizations.weight.original
    return weight


CONVOLUTIONS: list[Any] = [
    (nn.Conv2d(24, 48, 3, groups=1), 24 * 9, 48 * 9),
    (nn.Conv2d(24, 48, 3, groups=4), 6 * 9, 12 * 9),
    (nn.Conv2d(48, 48, 5, groups=48), 25, 25),
    (nn.Conv1d(32, 64, 3, groups=2), 16 * 3, 32 * 3),
    (nn.ConvTranspose2d(24, 48, 3), 24 * 9, 48 * 9),
    (nn.ConvTranspose2d(24, 48, 3, groups=4), 6 * 9, 12 * 9),
    (nn.Linear(50, 70), 50, 70),
]


class TestFanMode:
    @pytest.mark.parametrize(("layer", "fan_in", "fan_out"), CONVOLUTIONS)
    @pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
    def test_effective(
        self, layer: nn.Module, fan_in: int, fan_out: int, mode: str, backend: str
    ) -> None:
        rule = {
            "type": "Kaiming",
            "layer": type(layer).__name__,
            "mode": mode,
            "distribution": "uniform",
            "fan_mode": "effective",
        }
        with fastinit.backend(backend):
            initialize(layer, rule)
        bound = math.sqrt(6 / (fan_in if mode == "fan_in" else fan_out))
        weight: Any = layer.weight
        assert 0.95 * bound < weight.abs().max() <= bound

    @pytest.mark.parametrize("groups", [1, 4])
    def test_a_unit_input_keeps_its_variance(self, groups: int) -> None:
        """What fan_in promises (He et al., equation 9), measured: at stride 1, away from edges."""
        conv = nn.ConvTranspose2d(64, 64, 3, groups=groups)
        kaiming = {"type": "Kaiming", "mode": "fan_in", "nonlinearity": "linear"}
        torch.manual_seed(0)
        initialize(conv, {**kaiming, "layer": "ConvTranspose2d", "fan_mode": "effective"})
        out = conv(torch.randn(2, 64, 24, 24))[..., 2:-2, 2:-2]
        assert out.var().item() == pytest.approx(1, rel=0.15)

    def test_default_is_torchs(self) -> None:
        one, other = nn.Conv2d(24, 48, 3, groups=4), nn.Conv2d(24, 48, 3, groups=4)
        for layer, added in ((one, {}), (other, {"fan_mode": "torch"})):
            torch.manual_seed(1)
            initialize(layer, {"type": "Kaiming", "layer": "Conv2d", **added})
        assert torch.equal(one.weight, other.weight)
        assert one.weight.std().item() == pytest.approx(math.sqrt(2 / (48 * 9)), rel=0.05)

    @pytest.mark.parametrize("kind", ["Xavier", "Kaiming", "Caffe2Xavier"])
    def test_other_values(self, kind: str) -> None:
        with pytest.raises(ValueError, match="must be 'torch' or 'effective', got 'keras'"):
            initialize(nn.Linear(2, 2), {"type": kind, "layer": "Linear", "fan_mode": "keras"})

    def test_of_rules_without_fans(self) -> None:
        with pytest.raises(TypeError, match="Normal takes no 'fan_mode'"):
            initialize(nn.Linear(2, 2), {"type": "Normal", "layer": "Linear", "fan_mode": "torch"})


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
class TestPadding:
    def test_row_is_kept(self, kind: Any, backend: str) -> None:
        layer = kind(10, 4, padding_idx=-1)
        rule = {"type": "Constant", "val": 3, "layer": kind.__name__, "keep_padding": True}
        with fastinit.backend(backend):
            initialize(layer, rule)
        expected = torch.full((10, 4), 3.0)
        expected[-1] = 0
        assert torch.equal(layer.weight, expected)

    def test_default_is_mmengines(self, kind: Any) -> None:
        layer = kind(10, 4, padding_idx=2)
        initialize(layer, {"type": "Constant", "val": 3, "layer": kind.__name__})
        assert bool((layer.weight == 3).all())

    def test_of_a_weight_that_is_tied(self, kind: Any, backend: str) -> None:
        model = net(embedding=kind(10, 4, padding_idx=2), head=nn.Linear(4, 10))
        model.head.weight = model.embedding.weight  # type: ignore[union-attr]
        names = [kind.__name__, "Linear"]
        with fastinit.backend(backend):
            initialize(model, {"type": "Normal", "layer": names, "keep_padding": True})
        weight: Any = model.head.weight  # type: ignore[union-attr]
        assert not weight[2].any()
        assert weight[1].all()

    def test_values_of_other_rows_do_not_change(self, kind: Any) -> None:
        kept, plain = kind(10, 4, padding_idx=2), kind(10, 4, padding_idx=2)
        for layer, keep in ((kept, True), (plain, False)):
            torch.manual_seed(2)
            rule = {"type": "Normal", "layer": kind.__name__, "keep_padding": keep}
            initialize(layer, rule)
        plain.weight.data[2] = 0
        assert torch.equal(kept.weight, plain.weight)


def test_orthogonal_is_an_initializer(backend: str) -> None:
    conv = nn.Conv2d(4, 8, 3)
    with fastinit.backend(backend):
        initialize(conv, {"type": "Orthogonal", "layer": "Conv2d", "gain": 3, "bias": 1})
    flat = conv.weight.detach().flatten(1)
    torch.testing.assert_close(flat @ flat.T, 9 * torch.eye(8))
    assert bool((conv.bias == 1).all())
    assert init.orthogonal_(torch.empty(3, 3)).shape == (3, 3)


def test_a_forget_bias_of_a_parametrized_bias() -> None:
    layer = nn.LSTM(4, 4)
    parametrize.register_parametrization(layer, "bias_ih_l0", Doubles())
    initialize(layer, {"type": "Normal", "layer": "ParametrizedLSTM", "forget_bias": 1})
    expected = torch.zeros(16)
    expected[4:8] = 1
    assert torch.equal(layer.bias_ih_l0, expected)
