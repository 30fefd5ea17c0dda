"""Whether two models were initialised by the same rules: what `build` must not change."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def differences(stock: nn.Module, built: nn.Module) -> list[str]:
    """In what a model built by fastinit differs from one that its own code initialised.

    Values are compared by law, since every model draws its own: constants and padding exactly,
    moments within six standard errors. Keys, ties, dtypes and buffers must be the same.
    """
    found = []
    if list(stock.state_dict()) != list(built.state_dict()):
        found.append("the keys of the state_dict")
    if ties(stock) != ties(built):
        found.append("tied parameters")
    buffers = dict(built.named_buffers())
    for name, buffer in stock.named_buffers():
        if name not in buffers or not torch.equal(buffer, buffers[name]):
            found.append(name)
    parameters = dict(built.named_parameters(remove_duplicate=False))
    for name, p in stock.named_parameters():
        if name not in parameters or not has_law_of(p, parameters[name]):
            found.append(name)
    return found


def has_law_of(one: Tensor, other: Tensor) -> bool:
    """Whether two parameters are of one kind, and their values samples of one law."""
    if (one.dtype, one.requires_grad) != (other.dtype, other.requires_grad):
        return False
    return is_alike(one.detach(), other.detach())


def ties(model: nn.Module) -> list[list[str]]:
    """Names of parameters that share their memory."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(parameter.data_ptr(), []).append(name)
    return sorted(group for group in groups.values() if len(group) > 1)


_FEW = 16
"""Fewer values tell constants from random ones, but not one law from another: once in some hundred
times three of them lie so close together that six of their standard deviations say nothing."""


def is_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two samples are of one law."""
    n = one.numel()
    one, other = without_strays(one), without_strays(other)
    (mean, std, kurtosis), (other_mean, other_std, other_kurtosis) = map(moments, (one, other))
    if n == 1 or std == 0 or other_std == 0:
        return bool(n == 1 or torch.equal(one, other))
    if n < _FEW:
        return True
    error = 6 * max(std, other_std) * math.sqrt(2 / n)
    if abs(mean - other_mean) > error or abs(std - other_std) > error:
        return False
    zeros = abs(int((one == 0).sum()) - int((other == 0).sum()))
    if zeros > 10 + n / 2**22:  # more than torch draws by chance: a padding row
        return False
    return abs(kurtosis - other_kurtosis) < 6 * math.sqrt(2 * 96 / n) + 0.1


def without_strays(tensor: Tensor) -> Tensor:
    """Without single values that stand 15 standard deviations or more away from all others.

    The truncated normal that timm and older torch compute from uniform numbers in single precision
    gives its lower bound itself once in 2**24 draws (erfinv(-1) is infinite): -2, where the
    standard deviation is 0.02 and any other value below 0.12.
    """
    mean, std, _ = moments(tensor)
    is_stray = (tensor - mean).abs() > 15 * std
    few = 2 + tensor.numel() // 2**22
    return tensor[~is_stray] if 0 < int(is_stray.sum()) <= few else tensor


def moments(tensor: Tensor) -> tuple[float, float, float]:
    """Mean, standard deviation and kurtosis, in double precision a slice at a time."""
    pieces = [piece.double() for piece in tensor.flatten().split(1 << 22)]
    n = tensor.numel()
    mean = sum(float(piece.sum()) for piece in pieces) / n
    squares = fourths = 0.0
    for piece in pieces:
        square = (piece - mean).square()
        squares += float(square.sum())
        fourths += float(square.square().sum())
    variance = squares / n
    return mean, math.sqrt(variance), fourths / n / variance**2 if variance else 0.0
