"""Tensors that modules compute from parameters, and the ways back to these.

torch.nn.utils.parametrize has a `right_inverse`. Its predecessors, which compute in a hook before
each forward pass, have ways back as plain: `weight_norm` a direction and its length,
`spectral_norm` and `prune` the tensor that they scale or mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fastinit.plan.current import current
from fastinit.plan.naming import named_as

Fill = Callable[[Tensor], object]


def names_of_computed(module: nn.Module) -> list[str]:
    """Return the names of the tensors that a module computes."""
    if not isinstance(module, nn.Module):
        return []
    found = list(module.parametrizations) if is_parametrized(module) else []  # type: ignore[arg-type]
    return [*found, *_hooks(module)]


def write_back(module: nn.Module, name: str, fill: Fill) -> bool:
    """Write parameters so that the tensor becomes what `fill` fills it with; False without a way.

    Args:
        module: the module.
        name: one of `names_of_computed`.
        fill: fills a tensor.

    Raises:
        ValueError: the parameters cannot hold that; they stay as they were.
    """
    with torch.no_grad():
        if is_parametrized(module, name):
            return _through_inverses(module, name, fill)
        hook = _hooks(module)[name]
        if isinstance(hook, WeightNorm):
            _as_direction_and_length(module, name, hook, fill)
        else:
            fill(getattr(module, f"{name}_orig"))
    return True


def _hooks(module: nn.Module) -> dict[str, Any]:
    """Return the hooks that compute a tensor, by its name."""
    found = {}
    for hook in getattr(module, "_forward_pre_hooks", {}).values():
        name = getattr(hook, "_tensor_name", getattr(hook, "name", None))
        if isinstance(hook, (SpectralNorm, WeightNorm, BasePruningMethod)):
            found[str(name)] = hook
    return found


def _through_inverses(module: nn.Module, name: str, fill: Fill) -> bool:
    chain: Any = module.parametrizations[name]  # type: ignore[index]
    if not all(hasattr(parametrization, "right_inverse") for parametrization in chain):
        return False
    restore = _kept([*chain.parameters(), *chain.buffers()])
    buffers = [
        (part._buffers, key, t) for part in chain.modules() for key, t in part._buffers.items()
    ]
    value = _filled(module, name, fill)
    try:
        setattr(module, name, value)
    except NotImplementedError:  # not for these values
        restore()
        return False
    for own, key, buffer in buffers:  # a new one in its place could not be restored
        if buffer is not None and own[key] is not buffer:
            own[key] = buffer.copy_(own[key])
    _require_finite(getattr(module, name), value, module, name, restore)
    return True


def _as_direction_and_length(module: Any, name: str, hook: Any, fill: Fill) -> None:
    length, direction = getattr(module, f"{name}_g"), getattr(module, f"{name}_v")
    restore = _kept([length, direction])
    value = _filled(module, name, fill)
    direction.copy_(value)
    length.copy_(torch.norm_except_dim(value, 2, hook.dim))
    computed = hook.compute_weight(module)
    _require_finite(computed, value, module, name, restore)
    setattr(module, name, computed)


def _filled(module: nn.Module, name: str, fill: Fill) -> Tensor:
    """Return a tensor filled under the name that the computed one has."""
    value = torch.empty_like(getattr(module, name))
    with named_as(current(), module, name, value):
        fill(value)
        return value.clone()  # while it has the name


def _kept(tensors: list[Tensor]) -> Callable[[], None]:
    """Let the plan restore tensors if it is abandoned; return what restores them now."""
    before = [tensor.clone() for tensor in tensors]
    plan = current()
    if plan is not None and plan.deferring:
        for tensor in tensors:
            plan.keep_from_torch(tensor)

    def restore() -> None:
        for tensor, values in zip(tensors, before, strict=True):
            tensor.copy_(values)

    return restore


def _require_finite(
    computed: Tensor, value: Tensor, module: nn.Module, name: str, restore: Callable[[], None]
) -> None:
    if not computed.isfinite().all() and value.isfinite().all():
        restore()
        raise ValueError(
            f"its {name} cannot be that: what {name} is computed from has no finite values for it, "
            "as weight_norm has none for rows of zeros"
        )
