"""Moves and casts take along what is pending, and change no value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from modules import copied, same
from torch import Tensor, nn

import fastinit
from fastinit import BaseModule, build, fused, init, materialize
from fastinit.fusion import FusedPlan

ELSEWHERE = torch.device("cpu", 0)  # another device in name, so that everything is moved


def plain() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(300, 200),
        nn.Embedding(50, 30, padding_idx=3),
        nn.LayerNorm(5),
        nn.Conv2d(2, 3, 4),
    )
    init.trunc_normal_(model[3].weight, std=0.3, a=-0.35, b=0.31)
    model.register_buffer("table", torch.arange(4.0))
    return model


CASTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bfloat16": lambda m: m.bfloat16(),
    "half": lambda m: m.half(),
    "to": lambda m: m.to(torch.bfloat16),
    "nothing": lambda m: m.float().to("cpu"),
    "moved": lambda m: m.to(ELSEWHERE),
    "moved and cast": lambda m: m.to(ELSEWHERE).half().cpu(),
    "both at once": lambda m: m.to(ELSEWHERE, torch.float16),
}


@pytest.mark.parametrize("name", CASTS)
def test_a_model_cast_by_its_code_is_the_model_cast(name: str, fill_sizes: list[int]) -> None:
    cast = CASTS[name]
    expected = copied(cast(build(plain, seed=3)))
    fill_sizes.clear()
    inside = build(lambda: cast(plain()), seed=3, strict=True)  # by name, so nothing was read
    assert fill_sizes == [len(list(inside.parameters())), 1]  # and the padding row
    assert same(expected, copied(inside))
    on_meta = build(lambda: cast(plain()), seed=3, device="meta")
    assert same(expected, copied(materialize(on_meta)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.1, 0.1), (1e-3, 1.7e-3), (-7e4, 7e4)])
def test_bounds_are_rounded_as_the_values_are(
    dtype: torch.dtype, bounds: tuple[float, float], isa: str
) -> None:
    from filling import Rule, filled

    n = 1 << 16
    single = filled(n, torch.float32, Rule("uniform", bounds), 1, 2, isa=isa)
    cast = filled(n, dtype, Rule("uniform", (*bounds, 1.0)), 1, 2, isa=isa)
    assert torch.equal(cast, single.to(dtype))
    assert cast.max() == torch.tensor(bounds[1]).to(dtype)  # which a fill of that dtype avoids


def outcome(code: Callable[[], tuple[Tensor, ...]]) -> tuple[list[Tensor], FusedPlan]:
    with fused(seed=5) as plan:
        tensors = code()
    return [t.detach().clone() for t in tensors], plan


def test_what_is_kept_agrees_with_its_cast() -> None:
    def kept() -> tuple[Tensor, ...]:
        x = torch.empty(500).uniform_()
        return x, x.bfloat16()

    def changed_by_code() -> tuple[Tensor, ...]:
        x = torch.empty(500).uniform_()
        y = x.bfloat16()
        x.mul_(2)
        return x / 2, y

    def read_first() -> tuple[Tensor, ...]:
        x = torch.empty(500).uniform_()
        y = x.bfloat16()
        assert y.sum() > 0
        return x, y

    def in_a_chain() -> tuple[Tensor, ...]:
        x = torch.empty(500).uniform_()
        return x, x.to(ELSEWHERE).half().to(ELSEWHERE).bfloat16().half()

    for code in (kept, changed_by_code, read_first):
        (x, y), _ = outcome(code)
        assert torch.equal(x.to(y.dtype), y), code.__name__
    (x, y), _ = outcome(in_a_chain)
    assert torch.equal(x.half().bfloat16().half(), y)


def test_another_fill_leaves_the_cast_as_it_was() -> None:
    def whole() -> tuple[Tensor, ...]:
        x = torch.empty(500).uniform_()
        y = x.half()
        x.zero_()
        return x, y

    def in_part() -> tuple[Tensor, ...]:
        x = torch.empty(500).uniform_()
        y = x.half()
        x[:250].zero_()
        return x, y

    (x, y), _ = outcome(whole)
    assert not x.any()
    assert y.std() > 0.1
    (x, y), _ = outcome(in_part)
    assert not x[:250].any()
    assert y[:250].std() > 0.1
    assert torch.equal(x[250:].half(), y[250:])


def test_two_casts_of_one_tensor_agree() -> None:
    def code() -> tuple[Tensor, ...]:
        x = torch.empty(500).normal_()
        return x.half(), x.half()

    (one, other), _ = outcome(code)
    assert one.std() > 0.5
    assert torch.equal(one, other)


def test_fills_of_the_cast_itself(fill_sizes: list[int]) -> None:
    def code() -> tuple[Tensor, ...]:
        x = torch.empty(500).normal_()
        y, z = x.half(), x.half()
        del x
        y.fill_(3.0)
        z[:2].fill_(3.0)
        return y, z

    (y, z), _ = outcome(code)
    assert (y == 3).all()
    assert (z[:2] == 3).all()
    assert z[2:].std() > 0.5


def test_what_needs_values_is_filled_first(fill_sizes: list[int]) -> None:
    leaf = nn.Parameter(torch.empty(4))

    def code() -> tuple[Tensor, ...]:
        with torch.no_grad():
            leaf.fill_(0.3)
        y = leaf.bfloat16()  # a step of autograd's graph
        y.sum().backward()
        return leaf.double(), y

    (double, y), _ = outcome(code)
    assert fill_sizes == [1]
    assert torch.equal(double, torch.full((4,), 0.3).double())
    assert torch.equal(y, torch.full((4,), 0.3, dtype=torch.bfloat16))
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [1.0] * 4


def test_nobodys_values_are_nobodys_elsewhere() -> None:
    def forgetful() -> nn.Module:
        model = nn.Module()
        model.lost = nn.Parameter(torch.empty(3, 4))
        return model.bfloat16()

    with pytest.raises(ValueError, match=r"nobody wrote all of lost \(3, 4\)"):
        build(forgetful, strict=True)


def test_to_meta_needs_no_values(fill_sizes: list[int]) -> None:
    with fused():
        x = torch.empty(5).normal_()
        assert x.to("meta").is_meta
        assert not fill_sizes


def test_names_go_along(fill_sizes: list[int]) -> None:
    class Head(BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Normal", std=0.01, layer="Linear"))
            self.fc = nn.Linear(30, 30)

    with fused(seed=5) as plan:
        head = Head()
        head.init_weights()
        head.bfloat16()
    assert fill_sizes == [2]
    entry = plan.manifest().named("fc.weight")
    assert (entry.dtype, entry.status, entry.fills[0].stream) == ("bfloat16", "filled", "fc.weight")
    again = build(Head, seed=5)
    with fused(seed=5):
        again.init_weights()
    assert torch.equal(head.fc.weight, again.fc.weight.bfloat16())


def test_the_account_tells_of_casts() -> None:
    with fused(seed=2) as plan:
        layer = nn.Linear(200, 300).bfloat16()
        plan.add_root(layer)
    text = plan.to_json()
    assert plan.manifest().named("weight").fills[0].parameters["cast"] == 1.0
    assert torch.equal(fastinit.regenerate(text, "weight"), layer.weight)
    assert fastinit.verify(layer, text) == {"weight": True, "bias": True}
