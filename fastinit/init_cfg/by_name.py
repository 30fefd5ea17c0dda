"""Rules by parameter name: which parameters a rule's `params` select."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from fastinit.init_cfg.layers import own_names
from fastinit.init_cfg.unmatched import note
from fastinit.plan.fan_groups import matches
from fastinit.tensors.walk import walk
from fastinit.warning import UnusedRuleWarning


class Named(NamedTuple):
    """A parameter by a name of it.

    Attributes:
        name: the name below the module that the rule is for.
        owner, own_name: its place.
        is_inner: whether a parametrized tensor is made of it, whose own name means both.
    """

    name: str
    owner: nn.Module
    own_name: str
    is_inner: bool


Taken = set[object]
"""Keys of the parameters that earlier rules by name have written."""


def selected(
    module: nn.Module, patterns: Sequence[str], taken: Taken, rule: str
) -> Iterator[Named]:
    """Yield the parameters in `module` whose names match one of the patterns, but for those that
    are taken, and take them. A pattern that matches none gets a UserWarning."""
    every = list(_named(module))
    chosen: set[int] = set()
    for pattern in patterns:
        fitting = [n for n, known in enumerate(every) if _selects(pattern, known)]
        chosen.update(fitting)
        if not fitting:
            _warn(pattern, [known.name for known in every if not known.is_inner], rule)
    for n in sorted(chosen):
        known = every[n]
        parameter = known.owner._parameters.get(known.own_name)
        key = (id(known.owner), known.own_name) if parameter is None else id(parameter)
        if key not in taken:
            taken.add(key)
            yield known


def _selects(pattern: str, known: Named) -> bool:
    return known.is_inner <= ("parametrizations." in pattern) and matches(known.name, pattern)


def _named(module: nn.Module) -> Iterator[Named]:
    """Yield all parameters in a module, each under all of its names."""
    first = {id(known): path for path, known in module.named_modules()}
    prefixes = {id(known): prefix for prefix, known in walk(module)}
    for path, owner in module.named_modules(remove_duplicate=False):
        is_first = path == first[id(owner)]
        prefix = prefixes[id(owner)] if is_first else _WRAPPERS.sub("", f"{path}.")
        is_inner = isinstance(owner, ParametrizationList)
        yield from (Named(prefix + name, owner, name, is_inner) for name in own_names(owner))


_WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def _warn(pattern: str, names: Sequence[str], rule: str) -> None:
    note(f"{rule}, params={pattern!r}")
    near = get_close_matches(pattern.removeprefix("*."), names, n=1, cutoff=0.4)
    hint = f"; nearest: {near[0]!r}" if near else ""
    warnings.warn(
        f"the pattern {pattern!r} of the rule {rule} matches no parameter{hint}",
        UnusedRuleWarning,
        stacklevel=4,
    )
