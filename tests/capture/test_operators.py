"""Torch's own database of operators: on pending tensors each gives what it gives on others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

from fastinit import fused, init

VALUE = 0.625  # exact in all dtypes
Make = Callable[[Tensor], Tensor]

# What they return is not decided by their arguments: memory that nothing was written to, and draws
# that are ours inside a plan.
NOT_DECIDED = {
    "empty",
    "empty_like",
    "empty_strided",
    "empty_permuted",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "resize_as_",
    "normal",
    "uniform",
}
OPERATORS = {
    f"{op.name}{'.' + op.variant_test_name if op.variant_test_name else ''}": op
    for op in op_db
    if op.name not in NOT_DECIDED
}


def mapped(value: Any, make: Make) -> Any:
    """The value with its floating-point tensors replaced."""
    if isinstance(value, Tensor):
        is_plain = value.layout is torch.strided and value.is_floating_point()
        return make(value) if is_plain and value.numel() else value.clone()
    if isinstance(value, (list, tuple)):
        items = [mapped(item, make) for item in value]
        is_named = hasattr(value, "_fields")
        return type(value)(*items) if is_named else type(value)(items)
    if isinstance(value, dict):
        return {key: mapped(item, make) for key, item in value.items()}
    return value


def whole(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype)


def every_second(like: Tensor) -> Tensor:
    if not like.dim():
        return torch.zeros(3, dtype=like.dtype)[1]
    return torch.zeros(*like.shape[:-1], 2 * like.shape[-1], dtype=like.dtype)[..., ::2]


def outcome(op: Callable[..., Any], sample: Any, make: Make) -> tuple[Any, Any]:
    """What the operator returns, and the arguments afterwards; or the type of its error."""
    torch.manual_seed(3)
    arguments = mapped((sample.input, sample.args, sample.kwargs), make)
    first, args, kwargs = arguments
    try:
        result = op(first, *args, **kwargs)
    except Exception as error:
        return type(error).__name__, None
    return result, arguments


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        if one.layout is not torch.strided or one.is_quantized:
            return type(one) is type(other)
        return (
            isinstance(other, Tensor)
            and one.shape == other.shape
            and torch.allclose(one, other, equal_nan=True)
            if one.dtype.is_floating_point or one.dtype.is_complex
            else torch.equal(one, other)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return all(same(value, other[key]) for key, value in one.items())
    return type(one) is type(other) and (one == other or not isinstance(one, (int, float, str)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All operators with --thorough, else one in twelve."""
    if "name" in metafunc.fixturenames:
        step = 1 if metafunc.config.getoption("--thorough") else 12
        metafunc.parametrize("name", sorted(OPERATORS)[::step])


def test_operators(name: str) -> None:
    op = OPERATORS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in (torch.float32, torch.bfloat16):
            if dtype not in op.dtypes:
                continue
            torch.manual_seed(1)
            samples = list(op.sample_inputs("cpu", dtype))[:6]
            for variant in filter(None, (op.get_op(), op.get_inplace())):
                for sample in samples:
                    for layout in (whole, every_second):
                        _check(name, variant, sample, layout)


def _check(name: str, op: Callable[..., Any], sample: Any, layout: Make) -> None:
    expected = outcome(op, sample, lambda like: layout(like).fill_(VALUE))
    with fused():
        actual = outcome(op, sample, lambda like: init.constant_(layout(like), VALUE))
        # Not executed by the end of the block: what the operator saw is what it returned.
        is_same = isinstance(expected[0], str) or same(expected[0], actual[0])
    if isinstance(expected[0], str):
        assert actual[0] == expected[0], f"{name}: {sample}"
        return
    assert is_same, f"{name}: {sample}"
    assert same(expected[1], actual[1]), f"{name} changes its arguments otherwise: {sample}"
    assert same(expected[0], actual[0]), f"{name}, when the block is over: {sample}"


def test_the_database_is_large() -> None:
    assert len(OPERATORS) > 500


pytestmark = pytest.mark.filterwarnings("ignore")
