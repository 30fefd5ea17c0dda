"""A replay does what construction did, or is refused, and what it cannot know is named."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import mmengine.model
import pytest
import torch
from modules import copied, same
from torch import nn
from torch.nn.init import trunc_normal_ as truncated

from fastinit import BaseModule, build, materialize


class ConstructorWrites(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(4, 4)
        self.zero = nn.Linear(4, 4)
        nn.init.zeros_(self.zero.weight)


class ConstructorWritesData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(4, 4)
        self.helper()

    def helper(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.data.normal_(0, 0.1)


class ResetsInIt(nn.Module):
    """As many writes in the constructor as in the replay, of another law."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        nn.init.zeros_(self.norm.weight)

    def init_weights(self) -> None:
        self.norm.reset_parameters()


class MemoryOnMeta(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.mask = nn.Parameter(torch.FloatTensor(3))  # which no device context moves

    def init_weights(self) -> None:
        nn.init.normal_(self.mask)


class Replaced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.linear.bias = nn.Parameter(torch.ones(4))


class Copied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.target = copy.deepcopy(self.linear)


class Operators(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.linear.weight.data *= 0
        self.linear.bias.data[:] = 1


class WritesOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        torch.full((4,), 2.0, out=self.linear.bias.data)


class ChildRuns(nn.Module):
    class Child(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.init_weights()

        def init_weights(self) -> None:
            self.weight.data.fill_(3.0)

    def __init__(self) -> None:
        super().__init__()
        self.child = self.Child()


class TiedFirstToLast(nn.Module):
    """The weight of the embedding is the head's, with the head's law."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.embedding.weight = self.head.weight


class GivesArguments(nn.Module):
    def __init__(self, std: float = 0.5) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.init_weights(std)

    def init_weights(self, std: float = 1.0) -> None:
        nn.init.normal_(self.linear.weight, std=std)


class GivesALayerArguments(nn.Module):
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 4))
            self.reset_parameters(std=2.0)

        def reset_parameters(self, std: float = 1.0) -> None:
            nn.init.normal_(self.weight, std=std)

    def __init__(self) -> None:
        super().__init__()
        self.layer = self.Layer()


class Derived(ConstructorWritesData):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(4, 4)


class OnMmengine(mmengine.model.BaseModule):
    """Its init_weights reads means, which are nothing on meta."""

    def __init__(self) -> None:
        super().__init__(init_cfg=dict(type="Normal", layer="Conv2d"))
        self.conv, self.head = nn.Conv2d(2, 2, 1), nn.Linear(8, 8)
        nn.init.zeros_(self.head.weight)


class Orthogonal(nn.Module):
    """By a function that returns at once on meta, as torch does since 2.13."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        nn.init.orthogonal_(self.linear.weight)


class Truncated(nn.Module):
    """The same by another name, for every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)
        self.apply(self._of_layer)

    def _of_layer(self, layer: nn.Module) -> None:
        if isinstance(layer, nn.Linear):
            truncated(layer.weight, std=0.02)


REFUSED: dict[type, str] = {
    Orthogonal: "the constructor of Orthogonal (wrote linear|seems to write)",
    Truncated: "the constructor of Truncated (wrote linear|seems to write)",
    Derived: "the constructor of Derived seems to write by .data",
    OnMmengine: r"the constructor of OnMmengine wrote head\.weight in ways",
    TiedFirstToLast: r"embedding\.weight: tied, and which layer initialised it cannot be told",
    GivesArguments: "the constructor of GivesArguments gives arguments to init_weights",
    GivesALayerArguments: "the constructor of Layer gives arguments to init_weights or reset_p",
    Replaced: r"the constructor of Replaced wrote linear\.bias in ways",
    Copied: r"the constructor of Copied wrote target\.weight, target\.bias in ways",
    Operators: "the constructor of Operators seems to write by .data",
    WritesOut: "the constructor of WritesOut seems to write by .data",
    ChildRuns: "the constructor of Child seems to write by .data",
    ConstructorWrites: r"the constructor of ConstructorWrites wrote zero\.weight in ways of",
    ConstructorWritesData: "the constructor of ConstructorWritesData seems to write by .data",
    ResetsInIt: r"the constructor of ResetsInIt wrote norm\.weight in ways",
    MemoryOnMeta: "mask have memory, though the model was made on meta",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda kind: kind.__name__)
def test_what_a_replay_would_lose_is_refused(make: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        model = make()
    text = rf"^materialize: .*{REFUSED[make]}.*build\(fn, device='meta'\)"  # type: ignore[index]
    with pytest.raises(ValueError, match=text):
        materialize(model)
    assert list(model.parameters())[-1].is_meta
    with pytest.warns(UserWarning, match=text):
        materialize(model, strict=False)
    assert not list(model.parameters())[-1].is_meta
    # The route that the message names.
    runs: bool | None = True if make in (MemoryOnMeta, OnMmengine) else None
    strict = make not in (Copied, Operators, WritesOut)  # which read
    expected = copied(build(make, seed=1, init_weights=runs, strict=strict))
    built = build(make, seed=1, device="meta", init_weights=runs, strict=strict)
    assert same(expected, copied(materialize(built)))


class Later(nn.Module):
    """Its init_weights leaves things to its layers' constructors, and computes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4, padding_idx=0)
        self.norm = nn.BatchNorm1d(4)
        self.rnn = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.parts = nn.ParameterList(nn.Parameter(torch.zeros(3)) for _ in range(2))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.held = [self.norm.weight]
        self.register_buffer("table", torch.empty(5), persistent=False)
        self.register_buffer("steps", torch.empty((), dtype=torch.int64))

    def init_weights(self, buffer_device: str | None = None) -> None:
        for part in self.parts:
            part.uniform_() if not torch.is_grad_enabled() else part.data.uniform_()
        self.table = torch.arange(5.0, device=self.table.device).cos()
        self.steps.fill_(3)
        nn.init.orthogonal_(self.rnn.weight_hh_l0)


@pytest.mark.parametrize("init", [None, lambda m: m.init_weights(buffer_device="cpu")])
def test_a_replay_is_the_construction_and_its_init_weights(init: Any) -> None:
    expected = build(Later, seed=3, init_weights=True)
    with torch.device("meta"):
        model = Later()
    held, optimizer = model.norm.weight, torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "materialize: another model")
        materialize(model, seed=3, init=init)
    assert same(copied(expected), copied(model))
    assert torch.equal(expected.table, model.table)
    assert model.head.weight is model.embed.weight
    assert not model.embed.weight[0].any(), "the first name's values: a head would overwrite them"
    assert model.held[0] is held is model.norm.weight
    assert any(p is held for p in optimizer.param_groups[0]["params"])
    assert model.rnn(torch.zeros(2, 1, 4))[0].shape == (2, 1, 4)


def test_objects_that_hold_parameters_hold_live_ones_after_build_on_meta() -> None:
    expected = build(Later, seed=3, init_weights=True)
    model = build(Later, seed=3, device="meta", init_weights=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    materialize(model)
    assert model.held[0] is model.norm.weight
    assert any(p is model.norm.weight for p in optimizer.param_groups[0]["params"])
    assert same(copied(expected), copied(model))


class Marked(nn.Module):
    """As transformers does: what is marked is left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.init_weights()
        self.second.weight = self.first.weight

    def init_weights(self) -> None:
        for layer in (self.first, self.second):
            if not getattr(layer, "_is_hf_initialized", False):
                nn.init.normal_(layer.weight, std=0.02)
            layer._is_hf_initialized = True  # type: ignore[assignment]


def test_marks_do_not_hide_what_is_to_be_initialised() -> None:
    with torch.device("meta"):
        model = Marked()
    materialize(model, seed=1)
    assert same(copied(build(Marked, seed=1)), copied(model))
    assert model.first._is_hf_initialized


class Ran(BaseModule):
    def __init__(self) -> None:
        super().__init__(dict(type="Normal", layer="Linear", std=0.01))
        self.linear, self.norm = nn.Linear(30, 30), nn.BatchNorm1d(3)


def test_init_weights_that_has_run_on_meta_runs_again() -> None:
    with torch.device("meta"):
        model = Ran()
        model.init_weights()
    materialize(model, seed=1, strict=False)
    assert same(copied(build(Ran, seed=1, init_weights=True)), copied(model))
    assert model.is_init


class Demanding(nn.Linear):
    def init_weights(self, buffer_device: str) -> None:
        nn.init.ones_(self.weight)


def test_arguments_of_init_weights_are_asked_for() -> None:
    model = Demanding(3, 3, device="meta")
    text = r"Demanding\.init_weights takes buffer_device; pass init=lambda m: m\.init_weights"
    with pytest.raises(TypeError, match=text):
        materialize(model)
    with pytest.raises(TypeError, match=text):
        build(lambda: Demanding(3, 3), init_weights=True)
    materialize(model, init=lambda m: m.init_weights(buffer_device="cpu"))
    assert model.weight.eq(1).all()


def test_code_that_raises_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to("meta")
    before = dict(model.named_parameters())

    def failing(m: Any) -> None:
        m[1].weight.normal_()
        m[1].extra = nn.Linear(2, 2)
        if not m[1].weight.is_meta:
            raise LookupError("later")

    with pytest.raises(LookupError):
        materialize(model, init=failing)
    assert dict(model.named_parameters()) == before
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    with pytest.warns(UserWarning, match="was sharded, moved to meta or copied before"):
        materialize(model, seed=1)
    assert same(
        copied(build(lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), seed=1)),
        copied(model),
    )


class Once(nn.Module):
    """It keeps a record of its own of what it has done."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.done: list[str] = []

    def init_weights(self) -> None:
        if not self.done:
            nn.init.constant_(self.linear.weight, 7.0)
        self.done.append("linear")


def test_what_counts_the_writes_leaves_no_trace() -> None:
    with torch.device("meta"):
        model = Once()
    materialize(model)
    assert model.linear.weight.eq(7).all()
    assert model.done == ["linear"]
    with pytest.warns(UserWarning, match="nothing has run it"):
        built = build(Once)
    assert built.done == []
    built.init_weights()
    assert built.linear.weight.eq(7).all()


class TiedLastToFirst(nn.Module):
    """The usual order, and layers that differ in how often they write."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4, padding_idx=0), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


class TiedAndWritten(TiedFirstToLast):
    """A tie that `init_weights` writes, whoever initialised it."""

    def init_weights(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.02)


class TiedAlike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.one.weight = self.other.weight


@pytest.mark.parametrize("make", [TiedLastToFirst, TiedAndWritten, TiedAlike])
def test_ties_that_can_be_told_are_known(make: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        model = make()
    runs = hasattr(model, "init_weights")
    assert same(copied(materialize(model, seed=1)), copied(build(make, seed=1, init_weights=runs)))


def test_arguments_that_the_caller_gives_are_known() -> None:
    with torch.device("meta"):
        model = GivesArguments(0.25)
    materialize(model, init=lambda m: m.init_weights(0.25), seed=1)
    assert same(copied(model), copied(build(lambda: GivesArguments(0.25), seed=1)))
