"""Rules that write nothing: a warning if that looks like a slip, and an entry in the account."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn

from fastinit.plan.current import current


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
                UserWarning,
                stacklevel=4,
            )


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
