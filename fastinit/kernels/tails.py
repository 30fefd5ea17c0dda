"""Tails: pointwise operations with numbers that follow a fill, and wait with it.

They commute with slicing, so that names, moves, shards and regeneration stay exact: the values are
those of the fill, followed by torch's own operation. One chain is more than its steps: a uniform
draw, `erfinv_`, `mul_`, `add_` and `clamp_`, by which timm, mmengine, mmcv and older versions of
PyTorch draw a truncated normal, is one truncated normal. Another operation, `orthogonal`, takes the
whole tensor; of a tensor that it made, manifests say that it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinit.kernels.distributions import TRUNC_NORMAL, UNIFORM, Parameters
from fastinit.kernels.orthogonal import Matrices, equal_parts, orthogonalise
from fastinit.tensors.torch_private import unwatched

Operation = tuple[str, tuple[tuple[str, float], ...]]
"""A method of Tensor, without the underscore, and its arguments by name."""

Tail = tuple[Operation, ...]

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "abs": (),
    "add": ("other", "alpha"),
    "clamp": ("min", "max"),
    "clamp_max": ("max",),
    "clamp_min": ("min",),
    "div": ("other",),
    "erfinv": (),
    "exp": (),
    "mul": ("other",),
    "neg": (),
    "pow": ("exponent",),
    "sqrt": (),
    "square": (),
    "sub": ("other", "alpha"),
    "tanh": (),
}
"""The operations, with the names of their arguments in order."""

METHODS = {getattr(Tensor, f"{name}_"): name for name in ARGUMENTS} | {
    Tensor.__iadd__: "add",
    Tensor.__imul__: "mul",
    Tensor.__isub__: "sub",
    Tensor.__itruediv__: "div",
}
"""The methods of Tensor that are such operations."""


_ORTHOGONAL = "orthogonal"


def orthogonal(gain: float, parts: int = 1) -> Operation:
    """Return the one operation that is not pointwise: normals become an orthogonal matrix, or one
    for each of some equal parts of dimension 0."""
    return _ORTHOGONAL, (("gain", float(gain)), ("parts", parts))


def is_pointwise(tail: Iterable[tuple[str, Any]]) -> bool:
    """Whether a part of a tensor may be made by itself."""
    return all(name != _ORTHOGONAL for name, _ in tail)


class Chain(NamedTuple):
    """A fill and all operations that followed it, as code asked for them."""

    kind: int
    parameters: Parameters
    tail: Tail


def operation(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operation | None:
    """Return an operation from the arguments of a call; None if they are not plain numbers."""
    names = ARGUMENTS[name]
    if len(args) > len(names):
        return None
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(given) != len(args) + len(kwargs) or not given.keys() <= set(names):
        return None
    named = tuple((key, value) for key, value in given.items() if value is not None)
    for _, value in named:
        is_number = type(value) is float or (type(value) is int and abs(value) <= 1 << 53)
        if not is_number:
            return None
    has_required = all(key in given for key in names[:1]) or name == "clamp"
    return (name, named) if has_required and (named or not names) else None


def apply(tensor: Tensor, tail: Tail, matrices: Matrices | None = None) -> None:
    """Carry out the operations on a tensor, in their order; `matrices` are its parts that become
    orthogonal each by itself."""
    with torch.no_grad(), unwatched():
        for name, given in tail:
            if name == _ORTHOGONAL:
                own = dict(given)
                orthogonalise(
                    tensor, own["gain"], matrices or equal_parts(tensor, int(own["parts"]))
                )
            else:
                getattr(tensor, f"{name}_")(**dict(given))


def recognised(chain: Chain) -> Chain:
    """Return the chain with a truncated normal in the place of the operations that draw one."""
    if chain.kind != UNIFORM or not chain.tail or chain.tail[0][0] != "erfinv":
        return chain
    scale, shift, taken = _affine(chain.tail, 1)
    if taken == len(chain.tail) or scale <= 0:
        return chain
    name, given = chain.tail[taken]
    bounds = dict(given)
    if name != "clamp" or bounds.keys() != {"min", "max"}:
        return chain
    mean, std = shift, scale / math.sqrt(2.0)
    low, high = bounds["min"], bounds["max"]
    # What the uniform draw is bounded by, 2 Phi - 1, as exactly as code can have computed it.
    slack = 1e-6 * (chain.parameters[1] - chain.parameters[0]) + 4e-16
    for bound, drawn in ((low, chain.parameters[0]), (high, chain.parameters[1])):
        if not abs(math.erf((bound - mean) / scale) - drawn) <= slack:
            return chain
    factor, offset, end = _affine(chain.tail, taken + 1)
    if factor <= 0:
        factor, offset, end = 1.0, 0.0, taken + 1
    parameters = (
        factor * mean + offset,
        factor * std,
        factor * low + offset,
        factor * high + offset,
    )
    return Chain(TRUNC_NORMAL, parameters, chain.tail[end:])


def _affine(tail: Tail, first: int) -> tuple[float, float, int]:
    """Return (scale, shift, end): operations [first, end) multiply by scale and add shift."""
    scale, shift = 1.0, 0.0
    for n in range(first, len(tail)):
        name, given = tail[n]
        values = dict(given)
        if name in ("mul", "div"):
            if name == "div" and values["other"] == 0:
                return scale, shift, n
            factor = values["other"] if name == "mul" else 1.0 / values["other"]
            scale, shift = scale * factor, shift * factor
        elif name in ("add", "sub"):
            step = values["other"] * values.get("alpha", 1)
            shift += step if name == "add" else -step
        else:
            return scale, shift, n
    return scale, shift, len(tail)
