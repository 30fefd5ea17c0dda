"""Rules that write nothing: a warning if that looks like a slip, and an entry in the account."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn

from fastinit.models.checks import listed
from fastinit.plan.current import current
from fastinit.tensors.walk import walk
from fastinit.warning import UnusedRuleWarning


def note_unmatched(rule: str, layers: Sequence[str]) -> None:
    """Note a rule that found none of its layers, and warn of names that no class of modules has."""
    note(f"{rule}, layer={list(layers)}")
    known = _class_names()
    for layer in layers:
        if layer not in known:
            close = get_close_matches(str(layer), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if isinstance(layer, type):
                hint = f"; write {layer.__name__!r}, the name of the class"
            warnings.warn(
                f"no class of modules is called {layer!r}, as the rule {rule} has it{hint}",
                UnusedRuleWarning,
                stacklevel=4,
            )


def warn_of_others(rule: str, root: nn.Module, layer: nn.Module, names: Sequence[str]) -> None:
    """Warn of a layer that a rule names, and of whose parameters it writes none."""
    if names:
        where = _name_of(root, layer)
        warnings.warn(
            f"the rule {rule} does not write {listed([where + name for name in names])} of "
            f"{type(layer).__name__}: a rule with layer writes weight and bias; name others, for "
            f"example params={'*.' + names[0]!r}",
            UnusedRuleWarning,
            stacklevel=6,
        )


def warn_of_skipped(rule: str, root: nn.Module, skipped: Sequence[tuple[nn.Module, str]]) -> None:
    """Warn of weights that a rule selects and that other parameters decide."""
    warnings.warn(
        f"the rule {rule} has no effect on "
        f"{listed([_name_of(root, layer) + name for layer, name in skipped])}: computed from other "
        "parameters, without a right_inverse; use torch.nn.utils.parametrizations, or name the "
        "other parameters with params",
        UnusedRuleWarning,
        stacklevel=5,
    )


def _name_of(root: nn.Module, layer: nn.Module) -> str:
    return next((prefix for prefix, module in walk(root) if module is layer), "")


def note(rule: str) -> None:
    """Add a rule that wrote nothing to the plan's account, if it keeps one."""
    plan = current()
    if plan is not None and plan.account is not None:
        plan.account.unmatched.append(rule)


def _class_names() -> set[str]:
    """Return the names that `layer` can have: all subclasses of `nn.Module` and their bases."""
    names, ahead, seen = set(), [nn.Module], set()
    while ahead:
        kind = ahead.pop()
        if kind not in seen:
            seen.add(kind)
            names |= {kind.__name__, *(base.__name__ for base in kind.__bases__)}
            ahead += kind.__subclasses__()
    return names
