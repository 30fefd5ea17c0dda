"""What a manifest tells, in words: the law of a tensor, and its standard deviation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from fastinit.manifest.manifest import Drawn, Written


def law(tensor: Written) -> str:
    """Return the law of a tensor in words: `N(0, 0.02²)`, `U(±0.031)`, `constant 0`.

    Of several fills of parts it is told once if they have one law. A tensor that is not filled has
    its status.
    """
    if not tensor.fills:
        return tensor.status
    told = dict.fromkeys(_law(drawn) for drawn in tensor.fills)
    parts = len(tensor.fills)
    return f"{'; '.join(told)}{f' ({parts} parts)' if parts > 1 else ''}"


def _law(drawn: Drawn) -> str:
    p = drawn.parameters
    if drawn.rule == "constant":
        told = f"constant {p['value']:g}"
    elif drawn.rule == "uniform":
        told = f"U(±{p['b']:.3g})" if p["a"] == -p["b"] else f"U({p['a']:.3g}, {p['b']:.3g})"
    else:
        told = f"N({p['mean']:g}, {p['std']:.3g}²)"
        if drawn.rule == "trunc_normal":
            bounds = f"±{p['b']:.3g}" if p["a"] == -p["b"] else f"{p['a']:.3g} to {p['b']:.3g}"
            told = f"truncated {told}, {bounds}"
    return told + "".join(
        f", {name}({', '.join(f'{value:g}' for value in given.values())})"
        for name, given in drawn.tail
    )


def std(tensor: Written) -> float | None:
    """Return the standard deviation of a tensor's values; None if its fills do not tell."""
    if not tensor.fills:
        return None
    found = {_std(drawn) for drawn in tensor.fills}
    return found.pop() if len(found) == 1 else None


def _std(drawn: Drawn) -> float | None:
    p = drawn.parameters
    of_rule: dict[str, Callable[[], float | None]] = {
        "constant": lambda: 0.0,
        "uniform": lambda: (p["b"] - p["a"]) / math.sqrt(12),
        "normal": lambda: p["std"],
        "trunc_normal": lambda: _truncated_std(p),
    }
    value = of_rule[drawn.rule]()
    if value is None:
        return None
    for name, given in drawn.tail:
        if name in ("mul", "div") and len(given) == 1:
            (factor,) = given.values()
            value = abs(value * factor if name == "mul" else value / factor)
        elif name not in ("add", "sub"):
            return None
    return value


_NARROW = 0.05  # of such a window the density is nearly constant, and differences lose their digits


def _truncated_std(p: Mapping[str, float]) -> float | None:
    """Return the standard deviation of a truncated normal (Johnson, Kotz and Balakrishnan,
    "Continuous univariate distributions", volume 1, 1994, section 10.1); None too far from the
    mean to tell."""
    a, b = ((bound - p["mean"]) / p["std"] for bound in (p["a"], p["b"]))
    if (b - a) * max(1.0, abs(a), abs(b)) < _NARROW:
        return max(0.0, p["b"] - p["a"]) / math.sqrt(12)

    def density(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) if math.isfinite(x) else 0.0

    # From the nearer side, so that tails keep their digits.
    sign = -1.0 if a > 0 else 1.0
    mass = (math.erfc(-b / math.sqrt(2)) - math.erfc(-a / math.sqrt(2))) / 2
    if sign < 0:
        mass = (math.erfc(a / math.sqrt(2)) - math.erfc(b / math.sqrt(2))) / 2
    if mass <= 0:
        return None
    first = (density(a) - density(b)) / mass
    ends = sum(
        factor * bound * density(bound)
        for factor, bound in ((1, a), (-1, b))
        if math.isfinite(bound)
    )
    return p["std"] * math.sqrt(max(1 + ends / mass - first * first, 0.0))
