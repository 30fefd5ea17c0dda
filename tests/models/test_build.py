"""`build`: models of other people's code, with their own rules, buffers and ties."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from modules import copied, llama, same
from torch import nn

import fastinit
from bench.lib.alike import differences
from fastinit import BaseModule, build, fused, init


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_embd=192, n_layer=2, n_head=4, vocab_size=1000)
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=4, intermediate_size=384
    )
    return transformers.BertForMaskedLM(config)


def unet() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )


def torch_transformer() -> nn.Module:
    return nn.Transformer(64, 4, 1, 1, 128)


MODELS = [llama, gpt2, bert, unet, torch_transformer]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_rules_buffers_keys_and_ties_are_the_codes_own(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    assert not differences(make(), build(make, seed=0))


def test_differences_are_seen() -> None:
    """The comparison above can fail."""

    def changed(change: Callable[[nn.Module], object]) -> list[str]:
        model = llama()
        with torch.no_grad():
            change(model)
        return differences(llama(), model)

    def scaled(model: nn.Module) -> None:
        model.lm_head.weight *= 1.05

    def uniform(model: nn.Module) -> None:
        weight = model.lm_head.weight
        weight.uniform_(-1, 1).mul_(0.02 * math.sqrt(3))

    def tied(model: nn.Module) -> None:
        model.lm_head.weight = model.model.embed_tokens.weight

    def unpadded(model: nn.Module) -> None:
        model.model.embed_tokens.weight[3] = 0.02

    assert changed(scaled) == changed(uniform) == ["lm_head.weight"]
    assert "tied parameters" in changed(tied)
    assert changed(unpadded) == ["model.embed_tokens.weight"]
    assert changed(lambda m: m.model.norm.weight.mul_(2)) == ["model.norm.weight"]
    assert changed(lambda m: m.model.rotary_emb.inv_freq.mul_(2)) != []


def test_the_padding_row_of_a_transformer_is_zero() -> None:
    model = build(llama, seed=1)
    assert not model.model.embed_tokens.weight[3].any()
    assert model.model.embed_tokens.weight[4].any()


@pytest.mark.parametrize("make", [llama, gpt2], ids=lambda make: make.__name__)
def test_one_fill_of_each_parameter_and_the_same_again(
    make: Callable[[], nn.Module], fill_sizes: list[int]
) -> None:
    one = build(make, seed=3)
    assert len(fill_sizes) <= 2  # the padding row is a second wave
    assert fill_sizes[0] == len(list(one.parameters()))
    assert same(copied(one), copied(build(make, seed=3)))


def test_streams_are_named_in_the_model() -> None:
    built = build(lambda: nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10)), seed=2)
    other = build(lambda: nn.ModuleDict({"1": nn.Linear(30, 10)}), seed=2)
    assert torch.equal(built[1].weight, other["1"].weight)

    class Head(BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Normal", layer="Linear"))
            self.fc = nn.Linear(30, 30)

    def initialised() -> nn.Module:
        head = Head()
        head.init_weights()
        return head

    assert build(initialised, seed=2).fc.weight.std() > 0.5


def test_a_part_that_initialises_itself_has_its_name_in_the_whole() -> None:
    class Part(BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Normal", layer="Linear"))
            self.fc = nn.Linear(30, 30)

    class Whole(nn.Module):
        def __init__(self, early: bool) -> None:
            super().__init__()
            self.part = Part()
            if early:
                self.part.init_weights()

    class Late(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()

    early = build(lambda: Whole(True), seed=2)
    late = Late()
    with fused(seed=2):
        late.init_weights()
    assert torch.equal(early.part.fc.weight, late.part.fc.weight)


# --- device and dtype -----------------------------------------------------------------------------


def odd() -> nn.Module:
    """Views of one memory, ties, computed values, a padding row, other dtypes."""
    model = nn.Module()
    model.flat = nn.Parameter(torch.empty(60).normal_())
    model.part = nn.Parameter(model.flat.data[10:30].view(4, 5))
    model.embedding = nn.Embedding(6, 5, padding_idx=2)
    model.head = nn.Linear(5, 6, bias=False)
    model.head.weight = model.embedding.weight
    model.scaled = nn.Parameter(torch.randn(4) * 0.02)
    model.register_buffer("steps", torch.arange(5))
    model.register_buffer("table", torch.ones(3, 2).t() * 7)
    model.low = nn.Parameter(torch.empty(3, 5, dtype=torch.bfloat16).uniform_())
    model.channels = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    return model


def test_moved_models_have_the_same_values() -> None:
    here = build(odd, seed=4)
    # Another device in name, so that all of it is moved.
    there = build(odd, seed=4, device=torch.device("cpu", 0))
    assert same(copied(here), copied(there))
    assert there.head.weight is there.embedding.weight
    assert there.part.data_ptr() == there.flat.data_ptr() + 40
    assert there.table.stride() == here.table.stride()
    assert there.channels.weight.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(there.flat, nn.Parameter)


def test_what_is_no_ordinary_memory_is_moved_too() -> None:
    two = pytest.importorskip("torch.testing._internal.two_tensor").TwoTensor

    def made() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2))
        model.register_buffer("mask", torch.eye(3).to_sparse())
        model.sparse = nn.Parameter(torch.eye(2).to_sparse())
        pair = two(torch.ones(2), torch.zeros(2))
        model.pair, model.pairs = nn.Parameter(pair), nn.Buffer(pair.clone())
        return model

    # Not strict: code of a subclass of Tensor runs, before which all is executed.
    here = build(made, seed=4, strict=False)
    there = build(made, seed=4, device=torch.device("cpu", 0), strict=False)
    assert torch.equal(here[0].weight, there[0].weight)
    assert torch.equal(there.mask.to_dense(), torch.eye(3))
    assert there.mask.is_sparse
    assert torch.equal(there.sparse.to_dense(), torch.eye(2))
    for each in (there.pair, there.pairs):
        assert isinstance(each, two)
        assert (each.a.tolist(), each.b.tolist()) == ([1.0, 1.0], [0.0, 0.0])
    assert isinstance(there[1].weight, nn.UninitializedParameter)
    for name, parameter in here.named_parameters():
        other = there.get_parameter(name)
        assert isinstance(other, nn.Parameter), name
        assert other.is_leaf, name
        assert other.requires_grad == parameter.requires_grad, name
    assert there(torch.ones(1, 3)).shape == (1, 2)


def test_dtype_is_the_default_while_the_code_runs() -> None:
    model = build(lambda: nn.Linear(300, 300), dtype=torch.bfloat16, seed=1)
    assert model.weight.dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(LookupError):
        build(lambda: {}["missing"], dtype=torch.float64)  # type: ignore[arg-type, return-value]
    assert torch.get_default_dtype() == torch.float32


# --- what is missing ------------------------------------------------------------------------------


def forgetful() -> nn.Module:
    model = nn.Linear(2, 2)
    model.lost = nn.Parameter(torch.empty(3, 4))
    model.zero = nn.Parameter(torch.zeros(2))
    model.copied = nn.Parameter(torch.empty(2))
    with torch.no_grad():
        model.copied.copy_(torch.ones(2))
    return model


def test_parameters_that_nobody_wrote() -> None:
    text = r"^build: nobody wrote all of lost \(3, 4\); initialise them"
    with pytest.warns(UserWarning, match=text):
        build(forgetful, strict=False)
    with pytest.raises(ValueError, match=text):
        build(forgetful)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(odd)


def test_parameters_that_were_written_in_part() -> None:
    def half(rows: int) -> nn.Module:
        model = nn.Linear(2, 2)
        model.weight = nn.Parameter(torch.empty(6, 4))
        model.weight.data[:3].normal_()
        model.weight.data[3 : 3 + rows].normal_()
        return model

    build(lambda: half(3), strict=True)
    with pytest.raises(ValueError, match=r"nobody wrote all of weight \(6, 4\)"):
        build(lambda: half(2), strict=True)


def test_strict_refuses_what_depends_on_order() -> None:
    def reads_early() -> nn.Module:
        model = nn.Linear(5, 5)
        init.normal_(model.weight)
        model.bias.data.fill_(float(model.weight.detach().sum()))
        return model

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build(reads_early).bias[0] != 0, "without a seed no name is promised anything"
    with pytest.warns(UserWarning, match=r"weight \(5, 5\) of .*: drawn before the tensor had a"):
        assert build(reads_early, seed=1, strict=False).bias[0] != 0
    with pytest.raises(ValueError, match=r"^build: weight .*reads_early, line .*init_weights"):
        build(reads_early, seed=1)


def test_a_tensor_drawn_before_it_had_a_name_goes_on_to_its_next_stream() -> None:
    with fused(seed=3) as plan:
        model = nn.Linear(40, 40)
        assert model.weight.sum().isfinite()
        init.normal_(model.weight)
        plan.add_root(model)
    [drawn] = plan.manifest().named("weight").fills
    assert drawn.stream == "weight@1"


@pytest.mark.parametrize("make", [llama, gpt2, bert, unet], ids=lambda make: make.__name__)
def test_nothing_is_missing_of_well_known_models(make: Callable[[], nn.Module]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        build(make, strict=True)


def test_what_fn_must_return() -> None:
    with pytest.raises(TypeError, match="fn must return a module, it returned a dict"):
        build(dict)  # type: ignore[type-var]


def test_inside_an_init_weights() -> None:
    class Builds(BaseModule):
        def init_weights(self) -> None:
            build(lambda: nn.Linear(1, 1))

    with pytest.raises(RuntimeError, match="build inside an init_weights"):
        Builds().init_weights()


def test_the_torch_backend_builds_as_torch_does() -> None:
    with fastinit.backend("torch"):
        torch.manual_seed(6)
        built = build(odd)
    torch.manual_seed(6)
    assert same(copied(odd()), copied(built))


class Stack(nn.Module):
    """Layers that are copies of one that the model has not, as those of `nn.TransformerEncoder`."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    def init_weights(self) -> None:
        """Read what is not the first copy."""
        self.encoder.layers[2].linear1.weight.sum().item()


def test_copies_of_a_tensor_that_is_gone_draw_under_the_name_of_the_first() -> None:
    model = build(Stack, seed=1, init_weights=False)
    first, *others = (dict(layer.named_parameters()) for layer in model.encoder.layers)
    for other in others:
        assert all(torch.equal(first[name], tensor) for name, tensor in other.items())
    with fused(seed=1, root=(alone := nn.ModuleDict({"encoder": nn.Module()}))):
        layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16)])
        alone["encoder"].layers = layers
    for name, tensor in layers[0].named_parameters():
        assert torch.equal(first[name], tensor), name


class CopiesOfCopies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(3, 3)
        layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(2))
        self.layers = nn.ModuleList(copy.deepcopy(layers) for _ in range(2))

    def init_weights(self) -> None:
        self.layers[1][1].weight.sum().item()


@pytest.mark.parametrize("kind", [Stack, CopiesOfCopies])
def test_the_name_of_copies_does_not_depend_on_which_is_read(kind: type[nn.Module]) -> None:
    unread, read = (build(kind, seed=1, init_weights=each) for each in (False, True))
    for tensor, other in zip(unread.parameters(), read.parameters(), strict=True):
        assert torch.equal(tensor, other)
    later = build(kind, seed=1, device="meta", init_weights=False)
    fastinit.materialize(later)
    for tensor, other in zip(unread.parameters(), later.parameters(), strict=True):
        assert torch.equal(tensor, other)


class Sparse(nn.Linear):
    def init_weights(self) -> None:
        self.weight = nn.Parameter(torch.eye(3).to_sparse())


def test_a_manifest_of_what_becomes_sparse(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    model = build(lambda: Sparse(3, 3), seed=1, init_weights=True, manifest=file)
    named = {tensor["name"]: tensor for tensor in json.loads(file.read_text())["tensors"]}
    assert [named[name]["status"] for name in ("weight", "bias")] == ["computed", "filled"]
    assert model.weight.is_sparse


def test_a_manifest_of_what_the_recorder_knows_nothing_of(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    build(lambda: nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3)), seed=1, manifest=file)
    named = {tensor["name"]: tensor for tensor in json.loads(file.read_text())["tensors"]}
    assert named["1.weight"]["status"] == "filled"
    assert "0.weight" not in named
    with fastinit.backend("torch"):
        build(lambda: nn.Linear(3, 3), manifest=file)
    assert json.loads(file.read_text())["tensors"] == []
