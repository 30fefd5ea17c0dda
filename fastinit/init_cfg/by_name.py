"""Rules by parameter name: which parameters a rule's `params` select."""

from __future__ import annotations

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


class Named(NamedTuple):
    """A parameter by its name: the name below the module that the rule is for, and its place."""

    name: str
    owner: nn.Module
    own_name: str


Taken = set[tuple[int, str]]
"""Parameters that earlier rules by name have written, as (id of the owner, name there)."""


def selected(
    module: nn.Module, patterns: Sequence[str], taken: Taken, rule: str
) -> Iterator[Named]:
    """Yield the parameters in `module` whose names match one of the patterns, but for those that
    are taken, and take them. A pattern that matches none gets a UserWarning."""
    every = list(_named(module))
    for pattern in patterns:
        if not any(matches(known.name, pattern) for known in every):
            _warn(pattern, [known.name for known in every], rule)
    for known in every:
        place = id(known.owner), known.own_name
        if place not in taken and any(matches(known.name, pattern) for pattern in patterns):
            taken.add(place)
            yield known


def _named(module: nn.Module) -> Iterator[Named]:
    """Yield all parameters in a module; of a parametrized one the tensor, not what it is made of.
    A parameter of several names comes under each of them."""
    for prefix, owner in walk(module):
        if not isinstance(owner, ParametrizationList):
            yield from (Named(prefix + name, owner, name) for name in own_names(owner))


def _warn(pattern: str, names: Sequence[str], rule: str) -> None:
    note(f"{rule}, params={pattern!r}")
    near = get_close_matches(pattern.removeprefix("*."), names, n=1, cutoff=0.4)
    hint = f"; nearest: {near[0]!r}" if near else ""
    warnings.warn(
        f"the pattern {pattern!r} of the rule {rule} matches no parameter{hint}",
        UserWarning,
        stacklevel=4,
    )
