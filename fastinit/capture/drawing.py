"""Calls of torch's random functions in a plan with a seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastinit.capture import arguments
from fastinit.capture.effects import DRAWS_FROM_DEFAULT, TAKES_GENERATOR, Function
from fastinit.plan.plan import Plan
from fastinit.tensors import torch_private

_PLAIN = (Tensor, torch.nn.Parameter, int, float, bool, tuple, list, torch.Size)
_CPU = torch.device("cpu")


def is_random(func: Function) -> bool:
    """Whether a function of torch's draws from its default generator."""
    return (
        func in TAKES_GENERATOR
        or func in DRAWS_FROM_DEFAULT
        or isinstance(func, torch_private.OPERATORS)
        or getattr(func, "__module__", None) == "torch.nn.init"
    )


def drawing(plan: Plan, func: Function, *args: Any, **kwargs: Any) -> Any:
    """Call the function, with the plan's generator in the place of torch's default one."""
    draws = plan.draws
    if kwargs.get("generator") is torch.default_generator:
        kwargs = {**kwargs, "generator": None}
    is_given = kwargs.get("generator") is not None or any(
        isinstance(value, torch.Generator) for value in args
    )
    if draws is None or draws.is_default or is_given or not is_random(func):
        return func(*args, **kwargs)
    tensors = list(arguments.tensors((args, kwargs)))
    device = _device(func, tensors, kwargs)
    if device.type == "meta":
        return func(*args, **kwargs)
    # Stand-ins and modes of tracers would keep the generator, and subclasses may not take it.
    is_plain = all(type(value) in _PLAIN for value in args) and not torch_private.is_traced()
    if func in TAKES_GENERATOR and is_plain:
        return func(*args, **{**kwargs, "generator": draws.generator(device)})
    with draws.as_default(device):
        return func(*args, **kwargs)


def _device(func: Function, tensors: list[Tensor], kwargs: dict[str, Any]) -> torch.device:
    if (given := kwargs.get("device")) is not None:
        return torch.device(given)
    if tensors:
        return tensors[0].device
    return torch.get_default_device() if func in TAKES_GENERATOR else _CPU
