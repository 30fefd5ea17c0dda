"""`materialize`: models without memory, whole and sharded, get the values of the whole model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import test_build
import torch
from modules import copied, same
from torch import nn

from fastinit import build, materialize

# --- one process ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [test_build.odd, *test_build.MODELS], ids=lambda make: make.__name__
)
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
    if make is not test_build.odd:  # whose parameters share memory without being the same
        assert test_build.ties(expected) == test_build.ties(model)


def test_building_on_meta_fills_nothing(fill_sizes: list[int]) -> None:
    model = build(test_build.gpt2, device="meta", seed=1)
    assert not fill_sizes
    materialize(model)
    assert len(fill_sizes) == 1


def test_another_seed() -> None:
    def make() -> nn.Module:
        return nn.Linear(30, 30)

    model = materialize(build(make, seed=4, device="meta"), seed=9)
    assert same(copied(model), copied(build(make, seed=9)))
    torch.manual_seed(2)
    drawn = build(make, device="meta")
    torch.manual_seed(2)
    assert same(copied(materialize(drawn)), copied(build(make)))


def test_what_cannot_be_materialized() -> None:
    with pytest.raises(ValueError, match=r"was not made by fastinit\.build"):
        materialize(nn.Linear(1, 1, device="meta"))
    with pytest.warns(UserWarning, match="nobody wrote"):
        model = build(test_build.forgetful, device="meta")
    with pytest.raises(ValueError, match=r"nothing writes lost \(3, 4\)"):
        materialize(model)
    assert model.weight.is_meta
    materialize(model, strict=False)
    assert model.weight.std() > 0
    assert model.lost.shape == (3, 4)
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match="seed must be in"):
            materialize(model, seed=wrong)
