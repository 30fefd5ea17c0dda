"""Any part of a parameter again, from the manifest alone; and whether a model still holds it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastinit
from fastinit import fused


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Embedding(5, 3), nn.Conv2d(2, 4, 3))


def test_any_slice_can_be_made_again() -> None:
    with fused(seed=8) as plan:
        m = nn.ModuleDict({"e": nn.Embedding(9, 7, padding_idx=4), "c": nn.Conv2d(3, 5, 2)})
        with torch.no_grad():
            m["e"].weight[2:8:3, 1:6:2].fill_(3.0)
        plan.add_root(m)
    text = plan.to_json()
    for name, tensor in m.named_parameters():
        assert torch.equal(fastinit.regenerate(text, name), tensor)
    weight, conv = m["e"].weight, m["c"].weight
    for index in (4, -1, slice(3, 9, 2), (slice(1, 6), slice(2, None, 3)), (..., 5), (4, 4), ()):
        assert torch.equal(fastinit.regenerate(text, "e.weight", index), weight[index]), index
    for index in ((slice(1, 4), 2), (..., 1), (0, ..., slice(0, 1)), slice(2, 2)):
        assert torch.equal(fastinit.regenerate(text, "c.weight", index), conv[index]), index
    parsed = json.loads(text)
    assert torch.equal(fastinit.regenerate(parsed, "c.bias", 2), m["c"].bias[2])


DIAGONALS: dict[str, tuple[Callable[[Tensor], object], bool | None]] = {
    "after the whole": (lambda w: (w.normal_(), w.diagonal().fill_(0)), None),
    "between": (lambda w: (w.normal_(), w.diagonal().fill_(0), w[0].normal_()), None),
    "before the whole": (lambda w: (w.diagonal().fill_(0), w.normal_()), True),
    "before all parts": (
        lambda w: (w.diagonal().fill_(0), w[:2].normal_(), w[2:].uniform_()),
        True,
    ),
    "none, one part twice": (lambda w: (w[:2].normal_(), w.sum(), w[:2].normal_()), None),
    "none, parts that overlap": (lambda w: (w[:2].normal_(), w.sum(), w[1:3].normal_()), None),
}


@pytest.mark.parametrize("name", DIAGONALS)
def test_what_a_manifest_cannot_describe_it_does_not_tell(name: str) -> None:
    """A diagonal is no part along the dimensions."""
    act, answer = DIAGONALS[name]
    m = nn.Linear(4, 4, bias=False)
    with torch.no_grad(), fused(root=m) as plan:
        act(m.weight)
        before = plan.to_json()
    assert before == plan.to_json()
    assert fastinit.verify(m, before) == {"weight": answer}
    if answer:
        assert torch.equal(fastinit.regenerate(before, "weight"), m.weight)


def with_a_table() -> tuple[nn.Module, str]:
    """A model with a computed buffer, and its account."""
    with fused(seed=8) as plan:
        m = model()
        m.register_buffer("table", torch.arange(3.0))
        plan.add_root(m)
    return m, plan.to_json()


def test_what_cannot_be_made_again() -> None:
    _, text = with_a_table()
    with pytest.raises(KeyError, match="no tensor 'nothing'"):
        fastinit.regenerate(text, "nothing")
    with pytest.raises(ValueError, match="table is computed: no rule gives its values"):
        fastinit.regenerate(text, "table")
    with pytest.raises(IndexError, match="too many dimensions"):
        fastinit.regenerate(text, "0.bias", (1, 2))
    with pytest.raises(IndexError, match="out of range for dimension 0 of size 6"):
        fastinit.regenerate(text, "0.bias", 6)
    with pytest.raises(IndexError, match="step that is not positive"):
        fastinit.regenerate(text, "0.bias", slice(None, None, -1))
    for index in (True, None, 1.0, (0, None), [0], torch.tensor([True])):
        with pytest.raises(IndexError, match=r"not made of integers, slices and \.\.\. alone"):
            fastinit.regenerate(text, "0.weight", index)
    with pytest.raises(IndexError, match="more than one ellipsis"):
        fastinit.regenerate(text, "0.weight", (..., ...))
    with pytest.raises(ValueError, match="stream version 2, this is 1"):
        fastinit.regenerate({**json.loads(text), "stream_version": 2}, "0.bias")


def test_verify() -> None:
    m, text = with_a_table()
    assert fastinit.verify(m, text) == {
        "table": None,
        "0.weight": True,
        "0.bias": True,
        "1.weight": True,
        "2.weight": True,
        "2.bias": True,
    }
    with torch.no_grad():
        m[0].weight[5, 3] += 1
        m[1].weight[0, 0] *= -1
    m[2] = nn.Conv2d(2, 4, 1)
    m.add_module("new", nn.Linear(1, 1))
    answers = fastinit.verify(m, text)
    assert answers["0.weight"] is False
    assert answers["1.weight"] is False
    assert answers["0.bias"] is True
    assert answers["2.weight"] is None
    assert answers["new.weight"] is None


def test_verify_of_a_scalar() -> None:
    m = nn.ParameterList([torch.zeros(()), torch.zeros(())])
    with fused(root=m) as plan:
        nn.init.normal_(m[0])
        nn.init.normal_(m[1])
    assert fastinit.verify(m, plan.to_json()) == {"0": True, "1": True}
    with torch.no_grad():
        m[1].neg_()
    assert fastinit.verify(m, plan.to_json()) == {"0": True, "1": False}


def test_nothing_can_be_told_of_no_memory() -> None:
    m, text = with_a_table()
    assert set(fastinit.verify(m.to("meta"), text).values()) == {None}


def test_a_tensor_filled_part_by_part() -> None:
    """As projections of queries, keys and values are that share a parameter."""

    def made() -> nn.Module:
        m = nn.Module()
        m.qkv = nn.Parameter(torch.empty(6, 5))
        for n, part in enumerate(m.qkv.data.chunk(3)):
            part.normal_(10.0 * n)
        return m

    with fused(seed=8) as plan:
        m = made()
        plan.add_root(m)
    assert m.qkv.mean(1).tolist() == pytest.approx([0, 0, 10, 10, 20, 20], abs=2)
    text = plan.to_json()
    assert fastinit.verify(m, text) == {"qkv": True}
    assert torch.equal(fastinit.regenerate(text, "qkv", (slice(1, 5), 2)), m.qkv[1:5, 2])
    again = fastinit.materialize(fastinit.build(made, device="meta", seed=8))
    assert torch.equal(m.qkv, again.qkv)
