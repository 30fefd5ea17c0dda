"""Operations on what waits wait with it, and the chain of a truncated normal is one."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable

import pytest
import torch
from eager import constant_draws
from hypothesis import given
from hypothesis import strategies as st
from mmengine.model.weight_init import trunc_normal_ as mmengines
from torch import Tensor, nn

import fastinit
from fastinit import fused, init
from fastinit.kernels import tails

ROOT2 = math.sqrt(2.0)


def phi(x: float) -> float:
    return (1.0 + math.erf(x / ROOT2)) / 2.0


def in_one_expression(x: Tensor, mean: float, std: float, a: float, b: float) -> Tensor:
    """The chain as code writes it that never leaves the expression, with `Tensor.data`."""
    low, high = 2 * phi((a - mean) / std) - 1, 2 * phi((b - mean) / std) - 1
    x.data.uniform_(low, high).erfinv_().mul_(ROOT2).mul_(std).add_(mean).clamp_(a, b)
    return x


def scaled_afterwards(x: Tensor, mean: float, std: float, a: float, b: float) -> Tensor:
    """A standard truncated normal, scaled and moved, as TensorFlow's variance scaling is ported."""
    in_one_expression(x, 0.0, 1.0, (a - mean) / std, (b - mean) / std)
    x.data.mul_(std).add_(mean)
    return x


def with_operators(x: Tensor, mean: float, std: float, a: float, b: float) -> Tensor:
    with torch.no_grad():
        x.uniform_(2 * phi((a - mean) / std) - 1, 2 * phi((b - mean) / std) - 1)
        x.erfinv_()
        x *= std * ROOT2
        x += mean
        x.clamp_(min=a, max=b)
    return x


CHAINS = [mmengines, in_one_expression, scaled_afterwards, with_operators]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "window", [(0.0, 0.02, -2.0, 2.0), (0.5, 1.0, -1.0, 1.5), (1, 0.1, 1, 1.2)]
)
def test_a_chain_is_one_truncated_normal(
    chain: Callable[..., Tensor], window: tuple[float, float, float, float]
) -> None:
    values = []
    for draw in (chain, init.trunc_normal_):
        with fused(seed=3) as plan:
            x = draw(nn.Parameter(torch.empty(40, 50)), *window)
        [entry] = plan.manifest().tensors
        [drawn] = entry.fills
        assert (drawn.rule, drawn.tail) == ("trunc_normal", ())
        assert list(drawn.parameters.values()) == pytest.approx(window, abs=1e-6)
        values.append(x.detach())
    assert torch.allclose(*values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_a_chain_has_the_right_width(dtype: torch.dtype) -> None:
    """Its steps do not: 2 Phi - 1 has no digits near 1 there."""
    with fused(seed=3):
        x = mmengines(torch.empty(400, 500, dtype=dtype), 0.0, 0.02, -2.0, 2.0)
    assert x.float().std().item() == pytest.approx(0.02, rel=0.01)
    torch.manual_seed(0)
    eager = mmengines(torch.empty_like(x), 0.0, 0.02, -2.0, 2.0)
    assert eager.float().std().item() != pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.uniform_(-0.9, 0.9).erfinv_(),
        lambda x: x.uniform_(-0.9, 0.9).erfinv_().mul_(0.1).clamp_(-5, 5),  # another window
        lambda x: x.uniform_(-1, 1).erfinv_().mul_(-0.1).clamp_(-5, 5),
        lambda x: x.uniform_(-1, 1).erfinv_().mul_(0.1).clamp_(-5),
        lambda x: x.uniform_(0, 1).mul_(2).erfinv_().clamp_(-5, 5),
        lambda x: x.normal_(0, 1).mul_(0.1).clamp_(-0.2, 0.2),
        lambda x: x.uniform_(-1, 1).erfinv_().mul_(1e-4 * ROOT2).clamp_(0.5, 0.6),  # out of reach
        lambda x: x.uniform_(1, 1).erfinv_().mul_(ROOT2).clamp_(12, 13),  # the tail's own window
    ],
)
def test_what_is_no_such_chain_is_the_operations(change: Callable[[Tensor], Tensor]) -> None:
    with fused(seed=3) as plan:
        x = change(torch.empty(500))
    [entry] = plan.manifest().tensors
    [drawn] = entry.fills
    assert drawn.rule != "trunc_normal"
    again = torch.empty(500)
    with fused(seed=3):
        getattr(again, f"{drawn.rule}_")(*drawn.parameters.values())
    for name, arguments in drawn.tail:
        getattr(again, f"{name}_")(**arguments)
    assert torch.equal(x.nan_to_num(), again.nan_to_num())


@pytest.mark.parametrize(
    "then",
    [
        lambda x: x.mul_(-2).add_(1),
        lambda x: x.mul_(0),
        lambda x: x.add_(1).div_(0),
        lambda x: x.mul_(2).div_(-0.5),
    ],
)
def test_what_turns_a_truncated_normal_round_follows_it(then: Callable[[Tensor], Tensor]) -> None:
    values = []
    for is_read in (False, True):
        with fused(seed=3) as plan:
            x = in_one_expression(torch.empty(500), 0.0, 1.0, -1.0, 2.0)
            if is_read:
                x.sum()
            then(x)
        values.append(x)
        if not is_read:
            [entry] = plan.manifest().tensors
            assert entry.fills[0].rule == "trunc_normal"
            assert entry.fills[0].tail
            assert torch.equal(fastinit.regenerate(plan.to_json(), entry.name), x)
    assert torch.equal(*values)


NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 0.5, 3, 1e-3, -7.25, 100.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["mul_", "add_", "sub_", "clamp_min_", "clamp_max_"]), NUMBERS),
        st.tuples(st.just("div_"), NUMBERS.filter(bool)),
        st.tuples(st.sampled_from(["neg_", "abs_", "tanh_"]), st.none()),
        st.tuples(st.sampled_from(["row", "read", "fill", "grown"]), NUMBERS),
    ),
    max_size=12,
)


@given(STEPS)
def test_programs_of_operations_are_torchs(steps: list[tuple[str, float | None]]) -> None:
    def run() -> tuple[Tensor, list[float]]:
        x, seen = torch.empty(3, 4), []
        init.normal_(x, 1.0, 2.0)
        for name, number in steps:
            if name == "row":
                x[1].mul_(number)
            elif name == "read":
                seen.append(x.sum().item())
            elif name == "fill":
                init.normal_(x.view(12), number, 1.0)
            elif name == "grown":
                x.add_(x, alpha=number)
            else:
                getattr(x, name)(*([] if number is None else [number]))
        return x, seen

    with constant_draws():
        expected = run()
        with fused(seed=1):
            found = run()
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_names_parts_and_materialize_keep_tails() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.empty(6, 4))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            nn.init.normal_(self.w)
            with torch.no_grad():
                self.w.mul_(0.5).add_(1)
                self.w[2].zero_()

    with fused(seed=5) as plan:
        model = fastinit.build(Scaled)
    text = plan.to_json()
    assert fastinit.verify(model, text) == {"w": True}
    assert torch.equal(fastinit.regenerate(text, "w", (slice(1, 5), 2)), model.w[1:5, 2])
    later = fastinit.materialize(fastinit.build(Scaled, device="meta"), seed=5)
    assert torch.equal(later.w, model.w)
    with torch.device("meta"):
        bare = Scaled()
    assert torch.equal(fastinit.materialize(bare, seed=5).w, model.w)


def test_a_cast_rounds_what_the_operations_gave() -> None:
    with fused(seed=2):
        x = init.normal_(torch.empty(300)).mul_(0.37)
        half = x.half()
        del x
    with fused(seed=2):
        whole = init.normal_(torch.empty(300)).mul_(0.37)
    assert torch.equal(half, whole.half())


def test_autograd_is_told_and_refuses_as_ever() -> None:
    with fused():
        w = nn.Parameter(torch.empty(3))
        nn.init.normal_(w)
        with pytest.raises(RuntimeError, match="leaf Variable"):
            w.mul_(2)
        x = torch.zeros(3)
        init.ones_(x)
        y = (w * x).sum()
        with torch.no_grad():
            init.zeros_(x)
            x.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


def test_manifests_of_format_1_are_read() -> None:
    with fused(seed=4) as plan:
        x = init.normal_(torch.empty(9))
    data = json.loads(plan.to_json())
    old = copy.deepcopy(data)
    del old["format"]
    for tensor in old["tensors"]:
        for fill in tensor["fills"]:
            del fill["tail"]
    assert torch.equal(fastinit.regenerate(old, "#0"), x)
    with pytest.raises(ValueError, match="format 3, this version reads 1 to 2"):
        fastinit.regenerate({**data, "format": 3}, "#0")


def test_arguments_that_are_no_plain_numbers_are_torchs() -> None:
    assert tails.operation("mul", (torch.ones(()),), {}) is None
    assert tails.operation("div", (2.0,), {"rounding_mode": "floor"}) is None
    assert tails.operation("mul", (), {}) is None
    assert tails.operation("abs", (1.0,), {}) is None
    assert tails.operation("clamp", (), {}) is None
    assert tails.operation("add", (1.0,), {"alpha": 2}) == ("add", (("other", 1.0), ("alpha", 2)))
