"""`initialize`, which applies an init_cfg to a module.

A rule is one dict of an init_cfg: `type` names the initializer, `layer` the classes it writes or
`params` the names of parameters, and `override` children with rules of their own; all other entries
are arguments of the initializer.
"""

from __future__ import annotations

import copy
import warnings
from difflib import get_close_matches
from typing import Any

from torch import nn

from fastinit.capture.opened import planned
from fastinit.init_cfg.base import BaseInit, credit
from fastinit.init_cfg.by_name import Taken
from fastinit.init_cfg.initializers import PretrainedInit
from fastinit.init_cfg.registry import WEIGHT_INITIALIZERS
from fastinit.init_cfg.unmatched import note
from fastinit.warning import UnusedRuleWarning

Rule = dict[str, Any]


def initialize(module: nn.Module, init_cfg: Rule | list[Rule]) -> None:
    """Apply rules to a module, in their order, in one fill; rules with `params` after the others,
    and of these the first that matches a parameter writes it.

    If anything raises, nothing that is pending is written; except inside `fused`, where it is
    written at the end of that block, and on the torch backend, where what was written stays.

    Args:
        module: any module.
        init_cfg: a rule or a list of rules; neither is modified.

    Raises:
        TypeError: `init_cfg` or an `override` is neither dict nor list, or arguments are refused.
        KeyError: a rule without `type`, or with one that is not registered.
        ValueError: an override without `name`, or with more than a `name` but without `type`.
        RuntimeError: an override whose `name` the module does not have.
        Exception: whatever the initializers raise.

    Examples:
        >>> initialize(model, dict(type="Constant", layer="Conv2d", val=1, bias=2,
        ...                        override=dict(type="Normal", name="head", std=0.01)))
    """
    if not isinstance(init_cfg, (dict, list)):
        raise TypeError(f"init_cfg must be a dict or a list of dicts, got {init_cfg!r}")
    rules = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
    taken: Taken = set()
    with planned(module):
        for rule in _in_order(rules):
            _apply(module, rule, taken)


def _in_order(rules: list[Any]) -> list[Any]:
    """Return rules by name after the others; none passes one that loads."""
    loads = 0
    places = []
    for rule in rules:
        is_dict = isinstance(rule, dict)
        loading = is_dict and is_loading(rule.get("type"))
        loads += loading
        places.append((loads, is_dict and "params" in rule))
        loads += loading
    return [rules[n] for n in sorted(range(len(rules)), key=places.__getitem__)]


def is_loading(kind: Any) -> bool:
    """Whether the `type` of a rule is the initializer that loads, ours or mmengine's."""
    if isinstance(kind, type):
        return kind is PretrainedInit or f"{kind.__module__}.{kind.__name__}" == _THEIRS
    return bool(kind == "Pretrained")


_THEIRS = "mmengine.model.weight_init.PretrainedInit"


def _apply(module: nn.Module, rule: Rule, taken: Taken) -> None:
    cfg = copy.deepcopy(rule)
    override = _pop(cfg, "override", "init_cfg")
    initializer = _run(module, cfg, taken=taken)
    if override is not None:
        cfg.pop("layer", None)
        _apply_override(module, override, cfg, taken)
    if _is_standard(initializer) and not (initializer.layer or initializer.params or override):
        warnings.warn(
            f"the rule {rule} writes nothing: give it layer=, params= or override=",
            UnusedRuleWarning,
            stacklevel=3,
        )


def _run(module: nn.Module, cfg: Rule, wholemodule: bool = False, *, taken: Taken) -> Any:
    initializer = WEIGHT_INITIALIZERS.build(cfg)
    if not callable(initializer):
        raise TypeError(
            f"'type' of a rule must make an initializer, which is called with a module; "
            f"{cfg['type']!r} made {initializer!r}"
        )
    initializer.wholemodule = wholemodule
    if isinstance(initializer, BaseInit):
        initializer.taken = taken
    initializer(module)
    if not _is_standard(initializer):  # its own `__call__` may not have credited its text
        info = getattr(initializer, "_get_init_info", type(initializer).__name__.__str__)
        credit(module, info())
    return initializer


def _is_standard(initializer: Any) -> bool:
    return isinstance(initializer, BaseInit) and type(initializer).__call__ is BaseInit.__call__


def _apply_override(module: nn.Module, override: Any, cfg: Rule, taken: Taken) -> None:
    """Apply the rules of an override; one with nothing but a `name` takes over the rule `cfg`."""
    if not isinstance(override, (dict, list)):
        raise TypeError(
            f"override must be a dict or a list of dicts, got {override!r} in the rule {cfg}"
        )
    for each in [override] if isinstance(override, dict) else override:
        rule = copy.deepcopy(each)
        name = _pop(rule, "name", "override")
        if name is None:
            raise ValueError(f"the override {each} needs the key 'name', that of a child module")
        if not rule:
            rule.update(cfg)
        elif "type" not in rule:
            raise ValueError(
                f"the override {each} needs the key 'type'; with nothing but 'name' it would take "
                f"over {cfg}"
            )
        if not hasattr(module, name):
            raise RuntimeError(_no_child(module, name, each))
        child = getattr(module, name)
        _run(child, rule, wholemodule=True, taken=taken)
        if isinstance(child, nn.Module) and next(child.parameters(), None) is None:
            note(f"the override {each}")
            warnings.warn(
                f"the override {each} writes nothing: {name!r} of {type(module).__name__} has no "
                "parameters",
                UnusedRuleWarning,
                stacklevel=4,
            )


def _pop(rule: Any, key: str, where: str) -> Any:
    try:
        return rule.pop(key, None)
    except (AttributeError, TypeError) as error:
        raise type(error)(f"a list in {where} must hold dicts, but it has {rule!r}") from None


def _no_child(module: nn.Module, name: str, override: Rule) -> str:
    children = [child for child, _ in module.named_children()]
    close = get_close_matches(name, children, n=1)
    hint = f"did you mean {close[0]!r}? It" if close else "it"
    return (
        f"{type(module).__name__} has no {name!r}, which the override {override} names; {hint} has "
        f"the children {', '.join(map(repr, children)) or '(none)'}"
    )
