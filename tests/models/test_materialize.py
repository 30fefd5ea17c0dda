"""`materialize`: models without memory, whole and sharded, get the values of the whole model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import test_build
import torch
from modules import Own, copied, llama, same
from torch import nn

from bench.lib.alike import ties
from fastinit import BaseModule, build, fused, materialize, verify

# --- one process ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", test_build.MODELS, ids=lambda make: make.__name__)
def test_a_model_built_on_meta_is_the_model(make: Callable[[], nn.Module]) -> None:
    expected = build(make, seed=4)
    model = build(make, seed=4, device="meta")
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    first = next(model.parameters())
    assert materialize(model) is model
    assert next(model.parameters()) is first
    assert same(copied(expected), copied(model))
    for (name, one), (_, other) in zip(
        expected.named_buffers(), model.named_buffers(), strict=True
    ):
        assert torch.equal(one, other), name
    for one, other in zip(expected.parameters(), model.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad
        assert one.stride() == other.stride()
    assert ties(expected) == ties(model)


def test_building_on_meta_fills_nothing(fill_sizes: list[int]) -> None:
    model = build(test_build.gpt2, device="meta", seed=1)
    assert not fill_sizes
    materialize(model)
    assert len(fill_sizes) == 1


def test_the_plan_around_it_keeps_the_account() -> None:
    with fused(seed=4) as plan:
        model = build(test_build.gpt2, device="meta")
    here = build(test_build.gpt2, seed=4)
    assert set(verify(here, plan.to_json()).values()) == {True}
    assert set(verify(materialize(model), plan.to_json()).values()) == {True}


def test_another_seed() -> None:
    def make() -> nn.Module:
        return nn.Linear(30, 30)

    model = materialize(build(make, seed=4, device="meta"), seed=9)
    assert same(copied(model), copied(build(make, seed=9)))
    torch.manual_seed(2)
    drawn = build(make, device="meta")
    torch.manual_seed(2)
    assert same(copied(materialize(drawn)), copied(build(make)))


# --- built by any code on meta --------------------------------------------------------------------


def resettable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Embedding(9, 5, padding_idx=2), nn.Linear(5, 5)
    )


class Head(BaseModule):
    """Rules of its own, a child with code of its own, a tie."""

    def __init__(self) -> None:
        super().__init__(
            [
                dict(type="Kaiming", layer="Conv2d"),
                dict(
                    type="Normal", layer="Linear", override=dict(type="Constant", val=3, name="out")
                ),
            ]
        )
        self.conv, self.fc, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 8)
        self.own = Own()
        self.tied = self.fc.weight


def head() -> nn.Module:
    model = Head()
    model.init_weights()
    return model


@pytest.mark.parametrize(
    ("make", "initialised"),
    [(resettable, resettable), (Head, head), (llama, llama)],
    ids=lambda f: f.__name__,
)
def test_its_own_code_says_what_it_holds(
    make: Callable[[], nn.Module], initialised: Callable[[], nn.Module]
) -> None:
    with torch.device("meta"):
        model = make()
    assert materialize(model, seed=5) is model
    expected = build(initialised, seed=5)
    assert same(copied(expected), copied(model))
    assert ties(expected) == ties(model)
    if make is Head:
        assert model.is_init
        assert model.own.calls == 1


def test_another_seed_than_builds_does_not_reach_what_code_computed() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        nn.init.orthogonal_(model[0].weight)
        model.register_buffer("table", torch.arange(4.0) * 2)
        return model

    with pytest.warns(UserWarning, match="has no effect on 0.weight, which code"):
        materialize(build(make, seed=4, device="meta"), seed=9)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "materialize: another seed")
        kept = materialize(build(make, seed=4, device="meta"), seed=4)
    assert same(copied(kept), copied(build(make, seed=4)))


class Scaled(nn.Module):
    """A layer that its constructor writes in ways of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.linear.weight.data.mul_(3)


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = Scaled(), Scaled(), nn.Linear(3, 2)


class TestPartsOfWhatWasBuiltOnMeta:
    """Modules know what they were part of, wherever they are now."""

    def test_alone_and_then_the_rest(self) -> None:
        model, expected = build(Towers, seed=1, device="meta"), build(Towers, seed=1)
        materialize(model.left)
        assert same(copied(model.left), copied(expected.left))
        materialize(model)
        assert same(copied(model), copied(expected))

    def test_in_another_model(self) -> None:
        model, expected = build(Towers, seed=1, device="meta"), build(Towers, seed=1)
        stage = materialize(nn.Sequential(model.right, model.head))
        assert same(copied(stage[0]), copied(expected.right))
        assert same(copied(stage[1]), copied(expected.head))

    def test_a_copy_of_a_part(self) -> None:
        def copies(model: Towers) -> Towers:
            model.right = copy.deepcopy(model.left)
            return model

        model = copies(build(Towers, seed=1, device="meta"))
        assert same(copied(materialize(model)), copied(copies(build(Towers, seed=1))))

    def test_a_module_that_took_a_place_is_not_known(self) -> None:
        model = build(Towers, seed=1, device="meta")
        with torch.device("meta"):
            model.left.linear = nn.Linear(3, 3)
        with pytest.raises(ValueError, match=r"nothing wrote left\.linear"):
            materialize(model)

    def test_a_parameter_that_came_since_is_not_known(self) -> None:
        model = build(Towers, seed=1, device="meta")
        model.head.extra = nn.Parameter(torch.empty(3, device="meta"))
        with pytest.raises(ValueError, match=r"nothing wrote head\.extra \(3,\)"):
            materialize(model)

    def test_a_parameter_of_another_shape(self) -> None:
        model = build(Towers, seed=1, device="meta")
        model.head.weight = nn.Parameter(torch.empty(5, 3, device="meta"))
        message = r"head.weight was built with shape \(2, 3\) and has \(5, 3\) now"
        with pytest.raises(ValueError, match=message):
            materialize(model)


def test_a_prefix_is_builds() -> None:
    model = build(lambda: nn.Linear(3, 3), seed=4, device="meta")
    with pytest.raises(ValueError, match=r"built on meta.*give prefix='a\.' to build"):
        materialize(model, prefix="a.")


def test_without_a_seed_manual_seed_governs() -> None:
    states = []
    for seed in (3, 3, 4):
        with torch.device("meta"):
            model = resettable()
        torch.manual_seed(seed)
        states.append(copied(materialize(model)))
    assert same(states[0], states[1])
    assert not torch.equal(states[0]["0.weight"], states[2]["0.weight"])


def test_memory_that_is_there_is_left_alone() -> None:
    with torch.device("meta"):
        model = resettable()
    model[3] = nn.Linear(5, 5)
    before = copied(model[3])
    materialize(model)
    assert same(before, copied(model[3]))


def test_what_the_code_does_not_write_is_named() -> None:
    with torch.device("meta"):
        model = resettable()
        model.scale = nn.Parameter(torch.empty(3))
        model.register_buffer("table", torch.arange(4.0) * 2)
    with pytest.raises(ValueError, match=r"nothing writes scale \(3,\), table \(4,\)"):
        materialize(model)
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])


# --- errors ---------------------------------------------------------------------------------------


def test_what_cannot_be_materialized() -> None:
    with pytest.warns(UserWarning, match="nobody wrote"):
        model = build(test_build.forgetful, device="meta", strict=False)
    with pytest.raises(ValueError, match=r"nothing wrote lost \(3, 4\) while"):
        materialize(model)
    assert model.weight.is_meta
    materialize(model, strict=False)
    assert model.weight.std() > 0
    assert model.lost.shape == (3, 4)
    sparse = nn.Module()
    sparse.weight = nn.Parameter(torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match="weight are of tensor subclasses or sparse"):
        build(lambda: sparse, device="meta")
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match="seed must be in"):
            materialize(model, seed=wrong)


def test_wrappers_copies_and_parts_of_a_built_model() -> None:
    class Half(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 3)
            nn.init.constant_(self.weight, 0.5)

    def built() -> nn.Module:
        return build(Half, device="meta", seed=0)

    for model in (torch.compile(built(), backend="eager"), copy.deepcopy(built())):
        materialize(model)
        assert all(bool((p == 0.5).all()) for n, p in model.named_parameters() if "weight" in n)
    assert same(copied(materialize(nn.Sequential(built()))[0]), copied(build(Half, seed=0)))
    with pytest.raises(ValueError, match="1 was built on meta by itself"):
        materialize(nn.Sequential(built(), built()))
    with torch.device("meta"):
        other = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="1 was built on meta by itself"):
        materialize(nn.Sequential(other, built()))
    with pytest.raises(ValueError, match=r"weight, bias are on the meta device"):
        build(lambda: nn.Linear(2, 2, device="meta"))


def test_memory_that_came_before_the_values_is_told() -> None:
    model = build(lambda: nn.Linear(3, 3), device="meta", seed=0)
    model.to_empty(device="cpu")
    with pytest.raises(ValueError, match="Linear was built on meta, and was given memory since"):
        materialize(model)


def test_attributes_of_parameters_stay() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    model.weight.tag = 1  # type: ignore[attr-defined]
    assert materialize(model).weight.tag == 1


class Tagged(nn.Parameter):
    """As libraries mark the kinds of their parameters."""


def test_classes_and_hooks_of_parameters_stay() -> None:
    seen: list[str] = []

    def hooked() -> nn.Module:
        model = nn.Linear(2, 2)
        model.weight = Tagged(torch.empty(2, 2).normal_())
        model.weight.register_hook(lambda grad: seen.append("hook"))
        model.bias.register_post_accumulate_grad_hook(lambda _: seen.append("post"))
        model.register_buffer("table", nn.Buffer(torch.ones(2)))
        model.table.tag = 7  # type: ignore[attr-defined]
        return model

    with torch.device("meta"):
        plain = hooked()
    plain.table = torch.ones(2)
    for model in (build(hooked, device="meta"), plain):
        materialize(model)
        assert type(model.weight) is Tagged
        if model is not plain:
            assert model.table.tag == 7
        seen.clear()
        model(torch.ones(1, 2)).sum().backward()
        assert sorted(seen) == ["hook", "post"]


class Copies(nn.Module):
    """Its code copies, and changes what it copied, in ways that a dry run must not get wrong."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.w, self.way = nn.Parameter(torch.empty(4, 4)), way

    def reset_parameters(self) -> None:
        source = torch.eye(4, device="cpu")
        with torch.no_grad():
            self.w.copy_(source)
            if self.way == "later zero":
                self.w.zero_()
            elif self.way == "source changed":
                source.mul_(0)
            elif self.way == "later part":
                self.w[1].fill_(7.0)


def test_copies_in_a_replay() -> None:
    expected = {
        "plain": torch.eye(4),
        "source changed": torch.eye(4),
        "later zero": torch.zeros(4, 4),
        "later part": torch.eye(4).index_fill(0, torch.tensor([1]), 7.0),
    }
    for way, value in expected.items():
        with torch.device("meta"):
            model = Copies(way)
        assert torch.equal(materialize(model).w, value), way


def test_an_error_leaves_the_model_as_it_was() -> None:
    with torch.device("meta"):
        model = Head()
        model.lost = nn.Parameter(torch.empty(2))
    with pytest.raises(ValueError, match="nothing writes lost"):
        materialize(model, seed=5)
    assert not model.is_init
    assert model.own.calls == 0
    materialize(model, seed=5, strict=False)
    assert torch.equal(model.fc.weight, build(head, seed=5).fc.weight)
