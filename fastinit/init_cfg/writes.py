"""Ways to write a parameter: by each of the distributions that a rule can name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastinit import init
from fastinit.kernels.distributions import NORMAL, UNIFORM
from fastinit.plan.fan_rules import kaiming_rule, xavier_rule
from fastinit.plan.records import FanRule

Shape = Sequence[int]

_DISTRIBUTIONS = (("uniform", UNIFORM), ("normal", NORMAL))


class Write(NamedTuple):
    """A way to write a parameter.

    Attributes:
        whole: writes a tensor.
        by_shape: writes a tensor as if it, or each of the equal matrices that it holds along
            dimension 0, had the given shape; None if shapes do not matter.
    """

    whole: Callable[[Tensor], Any]
    by_shape: Callable[[Tensor, Shape], Any] | None = None

    def __call__(self, tensor: Tensor, shape: Shape | None = None) -> None:
        if shape is None or self.by_shape is None:
            self.whole(tensor)
        else:
            self.by_shape(tensor, shape)


def constant(val: float) -> Write:
    return Write(lambda tensor: init.constant_(tensor, val))


def normal(mean: float, std: float) -> Write:
    return Write(lambda tensor: init.normal_(tensor, mean, std))


def trunc_normal(mean: float, std: float, a: float, b: float) -> Write:
    return Write(lambda tensor: init.trunc_normal_(tensor, mean, std, a, b))


def uniform(a: float, b: float) -> Write:
    return Write(lambda tensor: init.uniform_(tensor, a, b))


def xavier(gain: float, distribution: str) -> Write:
    kind = _checked(distribution)
    whole = init.xavier_uniform_ if kind == UNIFORM else init.xavier_normal_
    by_fans = _by_fans(kind, xavier_rule(kind, gain))
    return Write(lambda tensor: whole(tensor, gain), by_fans)


def kaiming(a: float, mode: str, nonlinearity: str, distribution: str) -> Write:
    kind = _checked(distribution)
    whole = init.kaiming_uniform_ if kind == UNIFORM else init.kaiming_normal_
    by_fans = _by_fans(kind, kaiming_rule(kind, a, mode, nonlinearity))
    return Write(lambda tensor: whole(tensor, a, mode, nonlinearity), by_fans)


def by_rule(kind: int, rule: FanRule) -> Write:
    return Write(lambda tensor: init.by_fans_(tensor, kind, rule), _by_fans(kind, rule))


def orthogonal(gain: float) -> Write:
    return Write(
        lambda tensor: init.orthogonal_(tensor, gain),
        lambda tensor, shape: init.orthogonal_parts_(tensor, gain, len(tensor) // shape[0]),
    )


def kind_of(distribution: str) -> int | None:
    """Return the kind that a rule's `distribution` names, or None."""
    return next((kind for name, kind in _DISTRIBUTIONS if name == distribution), None)


def _checked(distribution: str) -> int:
    kind = kind_of(distribution)
    if kind is None:
        names = ", ".join(repr(name) for name, _ in _DISTRIBUTIONS)
        raise AssertionError(f"distribution must be one of {names}, got {distribution!r}")
    return kind


def _by_fans(kind: int, rule: FanRule) -> Callable[[Tensor, Shape], Any]:
    fill = init.of_kind(kind)
    return lambda tensor, shape: fill(tensor, *rule(shape))
