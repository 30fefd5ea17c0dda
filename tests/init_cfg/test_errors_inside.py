"""An `init_weights` that raises leaves nothing; inside `fused`, the rule of the block holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from versions import not_on_oldest

import fastinit
from fastinit import fused


def failing(rule: dict[str, Any], dtype: torch.dtype = torch.float32) -> fastinit.Sequential:
    """A model whose first layer is written by the rule, and whose second raises."""

    class Raises(fastinit.BaseModule):
        def init_weights(self) -> None:
            raise LookupError("later")

    model = fastinit.Sequential(nn.Linear(3, 3, dtype=dtype), Raises())
    model.init_cfg = {"layer": "Linear", **rule}
    return model


RULES: list[dict[str, Any]] = [
    {"type": "Constant", "val": 5},
    {"type": "Constant", "val": float("inf")},
    {"type": "Constant", "val": float("nan"), "bias": float("-inf")},
    {"type": "Normal", "std": 1e39},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_nothing_stays(rule: dict[str, Any]) -> None:
    model = failing(rule)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(LookupError):
        model.init_weights()
    assert all(map(torch.equal, before, model.parameters()))
    assert not model.is_init


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_constants_that_are_not_finite_are_torchs(value: float, dtype: torch.dtype) -> None:
    expected = nn.init.constant_(torch.empty(5, dtype=dtype), value)
    for context in (None, fused()):
        x = torch.empty(5, dtype=dtype)
        if context is None:
            fastinit.init.constant_(x, value)
        else:
            with context as plan:
                nn.init.constant_(x, value)
                assert plan.recorder, "it waits"
        assert torch.equal(x.isnan(), expected.isnan())
        assert torch.equal(x.nan_to_num(7), expected.nan_to_num(7))


@not_on_oldest("it refuses them itself")
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_single_half_takes_numbers_out_of_range_as_torchs(shape: tuple[int, ...]) -> None:
    expected = torch.empty(shape, dtype=torch.float16).fill_(1e6)
    with fused():
        x = torch.empty(shape, dtype=torch.float16).fill_(1e6)
        with pytest.raises(RuntimeError, match="overflow"):
            torch.empty(2, dtype=torch.float16).fill_(1e6)
    assert torch.equal(x, expected)


def test_caught_inside_a_block_the_writes_before_the_error_stay() -> None:
    """As the block's docstring says: every tensor is as the code left it."""
    model = failing({"type": "Constant", "val": 5, "bias": 6})
    with fused():
        with pytest.raises(LookupError):
            model.init_weights()
        model[0].bias.data.fill_(7)
    assert model[0].weight.eq(5).all()
    assert model[0].bias.eq(7).all()


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ({"type": dict}, TypeError, r"<class .dict.> made"),
        ({"type": print}, TypeError, "must make an initializer.*made None"),
        (
            {"type": "Kaiming", "layer": "Linear", "mode": int},
            TypeError,
            "mode must be 'fan_in' or 'fan_out'",
        ),
        (
            {"type": "Constant", "layer": "Linear", "val": 1, "bias": 10**400},
            OverflowError,
            "bias must be within",
        ),
    ],
    ids=["dict", "print", "mode", "bias"],
)
def test_what_is_wrong_is_named(rule: dict[str, Any], error: type[Exception], message: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    before = model[0].weight.detach().clone()
    with pytest.raises(error, match=message):
        fastinit.initialize(model, rule)
    assert torch.equal(model[0].weight, before)
