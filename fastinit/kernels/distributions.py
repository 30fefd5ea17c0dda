"""The distributions: one entry for each, which table, plan, manifest and function mode share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastinit.kernels.native import _C
from fastinit.tensors.torch_private import eager_trunc_normal

Parameters = tuple[float, float, float, float]
"""The arguments of a distribution, padded with zeros."""

CONSTANT, UNIFORM, NORMAL, TRUNC_NORMAL = range(4)

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
"""The dtypes that the kernels write, with their numbers in csrc/stream/elements.h."""


@dataclass(frozen=True)
class Distribution:
    """A distribution that the kernels draw from.

    Attributes:
        kind: its number in the kernels' table (csrc/stream/distributions.h).
        name: its name in manifests and in the kernels.
        arguments: the names of its arguments, in the order of a table row's parameters.
        in_torch: `in_torch(tensor, *arguments)` fills a tensor by torch.
        method: the method of Tensor for this distribution, if there is one.
        defaults: the arguments of that method with their default values; None: no default.
        is_random: whether its values are drawn.
    """

    kind: int
    name: str
    arguments: tuple[str, ...]
    in_torch: Callable[..., Tensor]
    method: Callable[..., Tensor] | None = None
    defaults: Mapping[str, float | None] = field(default_factory=dict)
    is_random: bool = True


_ALL = (
    Distribution(
        CONSTANT,
        "constant",
        ("value",),
        Tensor.fill_,
        Tensor.fill_,
        {"value": None},
        is_random=False,
    ),
    Distribution(
        UNIFORM,
        "uniform",
        # "cast": 1 for values drawn in fp32 and then rounded to 16 bits, which may give b itself.
        ("a", "b", "cast"),
        Tensor.uniform_,
        Tensor.uniform_,
        {"from": 0.0, "to": 1.0},
    ),
    Distribution(
        NORMAL,
        "normal",
        ("mean", "std"),
        Tensor.normal_,
        Tensor.normal_,
        {"mean": 0.0, "std": 1.0},
    ),
    Distribution(
        TRUNC_NORMAL,
        "trunc_normal",
        ("mean", "std", "a", "b"),
        eager_trunc_normal,
    ),
)
DISTRIBUTIONS = {row.kind: row for row in _ALL}
_BY_NAME = {row.name: row for row in _ALL}


def distribution_of(name: str) -> Distribution:
    """Return the distribution of this name.

    Raises:
        ValueError: there is none.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        known = ", ".join(map(repr, _BY_NAME))
        raise ValueError(f"no distribution is called {name!r}; there are {known}") from None


def valid_parameters(dtype: torch.dtype, kind: int, given: tuple[Any, ...]) -> Parameters | None:
    """Return the arguments as parameters of a row; None if they are left to torch, to carry out or
    to refuse."""
    assert _C is not None
    found: Parameters | None = _C.valid_parameters(DTYPES[dtype], kind, given)
    return found


def as_cast(kind: int, parameters: Parameters) -> Parameters:
    """Return the parameters for values drawn in fp32 and rounded to 16 bits, as by a cast."""
    if kind == UNIFORM:  # rounding may give the upper bound
        return (*parameters[:2], 1.0, 0.0)
    return parameters


def can_round(drawn: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether the kernels can write, in `dtype`, the rounded values of a fill in dtype `drawn`."""
    return drawn == dtype or (drawn == torch.float32 and dtype in (torch.float16, torch.bfloat16))


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype: "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def is_far(mean: float, std: float, a: float, b: float) -> bool:
    """Whether a mean is more than two standard deviations outside [a, b]."""
    return mean < a - 2 * std or mean > b + 2 * std


def warn_if_far(mean: float, std: float, a: float, b: float) -> None:
    """Warn, as torch does, of a mean far outside [a, b]."""
    if is_far(mean, std, a, b):
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=3,
        )
