"""Moves and casts take along what is pending, and change no value."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from modules import copied, same
from torch import Tensor, nn

import fastinit
from fastinit import BaseModule, build, fused, init, materialize
from fastinit.plan.plan import Plan

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


def outcome(code: Callable[[], tuple[Tensor, ...]]) -> tuple[list[Tensor], Plan]:
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


def test_fills_of_the_cast_itself() -> None:
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


@pytest.mark.parametrize(
    "cast",
    [
        lambda x: x.to(torch.int32),
        lambda x: x.to(torch.bool),
        lambda x: x.to(torch.complex64),
        lambda x: x.as_strided((4, 1, 5), (5, 3, 1)).clone(),  # strides that a clone does not keep
    ],
)
def test_a_cast_that_cannot_wait_has_the_values_before_the_next_fill(
    cast: Callable[[Tensor], Tensor],
) -> None:
    def code() -> tuple[Tensor, ...]:
        x = torch.empty(4, 5).uniform_(-3, 3)
        before = cast(x)
        return before, x.zero_()

    (before, x), _ = outcome(code)
    (same_draw,), _ = outcome(lambda: (torch.empty(4, 5).uniform_(-3, 3),))
    expected = cast(same_draw)
    assert torch.equal(before, expected)
    assert before.dtype == expected.dtype
    assert not x.any()


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


# --- what must not be taken for a fill that can be carried ----------------------------------------


def test_a_part_that_is_pending_over_values_that_are_there() -> None:
    def code() -> tuple[Tensor, ...]:
        x = torch.empty(64).fill_(2.0)
        y = x.half()
        y[:1].zero_()
        z = y.to(ELSEWHERE)
        del y
        x.mul_(1)
        return x, z

    (_, z), _ = outcome(code)
    assert z.tolist() == [0.0] + [2.0] * 63


def test_views_of_another_dtype() -> None:
    def code() -> tuple[Tensor, ...]:
        x = torch.empty(4)
        x.view(torch.float16).fill_(1.0)
        return x.half(), x.to(ELSEWHERE)

    (half, moved), _ = outcome(code)
    expected = torch.ones(8, dtype=torch.float16).view(torch.float32)
    assert torch.equal(half, expected.half())
    assert torch.equal(moved, expected)


class Marked(Tensor):
    """A subclass that only adds behaviour."""


def test_what_is_not_ordinary_memory_is_torchs() -> None:
    with fused():
        assert torch.eye(3).to_sparse().double().is_sparse
        assert build_lazy().weight.dtype == torch.float16
        rows = torch.vmap(lambda row: row.half())(torch.ones(2, 3))
        assert rows.dtype == torch.float16
        marked = torch.empty(3).normal_().as_subclass(Marked)
        assert type(marked.half()) is Marked
        with torch.inference_mode():
            x = torch.empty(4).normal_()
            y = x.half()
    assert torch.equal(x.half(), y)


def build_lazy() -> nn.Module:
    return nn.LazyLinear(3).half()


def test_swapped_parameters() -> None:
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model = build(lambda: nn.Linear(300, 300).half(), seed=1, strict=False)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    assert 0 < model.weight.abs().max() <= 0.058
    with fused(seed=1):
        y = torch.empty(50).normal_().half()
        one, two = torch.zeros(2), torch.ones(2)
        torch.utils.swap_tensors(one, two)
    assert one.tolist() == [1.0, 1.0]
    assert y.std() > 0.5


def test_parts_with_fans_of_their_own_are_rounded_alike() -> None:
    def made() -> nn.Module:
        model = nn.Linear(600, 600, bias=False)
        nn.init.xavier_uniform_(model.weight)
        return model

    with fastinit.fan_groups({"weight": 3}):
        cast, inside = build(made, seed=1).bfloat16(), build(lambda: made().bfloat16(), seed=1)
    assert torch.equal(cast.weight, inside.weight)


def test_an_error_of_fan_groups_leaves_nothing_else_unfilled() -> None:
    model, other = nn.Linear(4, 4), torch.zeros(3)

    def code(plan: Plan) -> Tensor:
        plan.add_root(model)
        nn.init.xavier_normal_(model.weight)
        cast = model.weight.detach().half()
        nn.init.ones_(other)
        return cast

    with fastinit.fan_groups({"weight": 3}):  # noqa: SIM117
        with pytest.raises(ValueError, match="3 does not divide"), fused() as plan:
            cast = code(plan)
    assert other.tolist() == [1.0] * 3
    assert cast.shape == (4, 4)


@pytest.mark.parametrize("cast", [lambda m: m.double(), lambda m: m.half()])
def test_nobodys_values_stay_nobodys(cast: Callable[[nn.Module], nn.Module]) -> None:
    def forgetful() -> nn.Module:
        model = nn.Module()
        model.lost = nn.Parameter(torch.empty(3, 4))
        return cast(model)

    with pytest.raises(ValueError, match=r"nobody wrote all of lost \(3, 4\)"):
        build(forgetful, strict=True)


def test_clones_and_copies_wait_with_their_source(fill_sizes: list[int]) -> None:
    with fused(seed=1) as plan:
        source = torch.empty(5).normal_()
        clone, copied = source.clone(), torch.empty(5)
        copied.copy_(source)
        assert not fill_sizes
        source.zero_()
        given_up = torch.empty(7)
        given_up.copy_(torch.empty(7).normal_(3))
        kept = nn.Linear(4, 4)
        average = copy.deepcopy(kept)
    assert torch.equal(clone, copied)
    assert not source.any()
    assert given_up.mean() > 1
    assert torch.equal(kept.weight, average.weight)
    rules = [tensor.status for tensor in plan.manifest().tensors]
    assert "unwritten" not in rules


def test_a_prototype_that_is_given_up_is_not_filled(fill_sizes: list[int]) -> None:
    with fused():
        layer = nn.TransformerEncoderLayer(8, 2, 16)
        encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        del layer
    assert sum(fill_sizes) == len(list(encoder.parameters()))


def scaled(dtype: torch.dtype) -> nn.Module:
    model = nn.Linear(20, 20, dtype=dtype)
    with torch.no_grad():
        model.bias.mul_(0.5)  # a tail, with which no fill can be rounded elsewhere
        nn.init.orthogonal_(model.weight)
    return model


@pytest.mark.parametrize("to", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [lambda dtype: nn.Linear(20, 20, dtype=dtype), scaled])
def test_a_cast_inside_build_is_a_cast_after_it(
    make: Callable[[torch.dtype], nn.Module], dtype: torch.dtype, to: torch.dtype
) -> None:
    """Where values cannot be drawn rounded, they are drawn by the name, and then cast."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "build: another model")
        inside = build(lambda: make(dtype).to(to), seed=1)
        after = build(lambda: make(dtype), seed=1).to(to)
    assert same(copied(inside), copied(after))


@pytest.mark.parametrize("to", [torch.float16, torch.float64], ids=str)
def test_fills_before_a_cast_count_as_written(to: torch.dtype) -> None:
    model = nn.Linear(3, 3)
    with fused(seed=1, root=model) as plan:
        nn.init.normal_(model.weight)
        nn.init.normal_(model.weight)
        model.to(to)
        nn.init.normal_(model.weight)
        with torch.no_grad():
            model.bias.copy_(init.ones_(init.zeros_(torch.empty(3))))
    assert plan.manifest().named("weight").writes == 3
    assert plan.manifest().named("bias").writes == 2


def test_a_model_in_another_memory_format_has_the_same_values() -> None:
    def made() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))

    def moved() -> nn.Module:
        return made().to(memory_format=torch.channels_last)

    expected = build(made, seed=2)
    with torch.device("meta"):
        bare = moved()
    for model in (
        build(moved, seed=2),
        fastinit.materialize(build(moved, seed=2, device="meta")),
        fastinit.materialize(bare, seed=2),
    ):
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert same(copied(expected), copied(model))
    with fused(seed=2):
        model = moved()
        again = model[0].weight.data.to(memory_format=torch.channels_last)
        assert again.data_ptr() == model[0].weight.data_ptr(), "as torch does"


def test_a_copy_from_a_tensor_with_gradients_is_torchs() -> None:
    """It extends the graph: the target is no leaf from then on."""
    source, target = nn.Parameter(torch.empty(3)), torch.zeros(3)
    with fused(seed=1):
        nn.init.constant_(source, 2.0)
        target.copy_(source)
        assert target.grad_fn is not None
    target.sum().backward()
    assert source.grad is not None
    assert source.grad.tolist() == [1, 1, 1]
