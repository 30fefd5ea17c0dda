"""The entries of a checkpoint: which of its dictionaries, under which names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

Entries = Mapping[str, Any]
Revisions = Sequence[tuple[str, str]]

# Of several dictionaries these are the weights, in this order; the others are named by `key`.
_FIRST = ("state_dict", "model", "model_state_dict", "module", "params", "weights")
# What training keeps beside the weights, which is taken by `key` only.
_OTHERS = re.compile(r"optim|momentum|exp_avg|grad|schedul|scaler")
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_SHOWN = 5


def entries_in(content: Any, where: str, key: str | None = None) -> Entries:
    """Return the dictionary of weights in what a file holds: itself, or the one that is nested.

    Args:
        content: what the file holds.
        where: the file, for messages.
        key: the name of the dictionary, with dots between levels.

    Raises:
        KeyError: there is none with that name.
        RuntimeError: there is none, or there are several of which none is usual.
    """
    if key is not None:
        return _by_key(content, where, key)
    if _is_named(content) and _tensors(content.get("state_dict")):
        nested: Entries = content["state_dict"]
        return nested
    found = containers(content)
    own = _tensors(content)
    name = next((name for name in _FIRST if name in found), None)
    if own and (name is None or own >= _tensors(found[name])):
        return content  # type: ignore[no-any-return]
    found = {n: inner for n, inner in found.items() if not _OTHERS.search(n.lower())}
    if name is None and len(found) == 1:
        name = next(iter(found))
    if name is not None:
        return found[name]
    if found:
        raise RuntimeError(
            f"{where!r} holds weights under {_listed(found)}; choose with key={next(iter(found))!r}"
        )
    if _is_named(content) and (not content or own):
        return content  # type: ignore[no-any-return]
    inside = f" with {_listed(content)}" if _is_named(content) else ""
    raise RuntimeError(
        f"{where!r} holds no state dict, a dict from names to tensors, neither as a whole nor "
        f"nested in it; it is a {type(content).__name__}{inside}"
    )


def containers(content: Any, above: str = "") -> dict[str, Entries]:
    """Return the dictionaries of tensors that are nested in a dictionary, by name."""
    found: dict[str, Entries] = {}
    if _is_named(content) and above.count(".") < 3:
        for name, inner in content.items():
            if not _is_named(inner):
                continue
            if _tensors(inner):
                found[above + name] = inner
            else:
                found |= containers(inner, f"{above}{name}.")
    return found


def _by_key(content: Any, where: str, key: str) -> Entries:
    found = containers(content)
    if key in found:
        return found[key]
    told = f"it has {_listed(found)}" if found else "no dictionary of tensors is nested in it"
    raise KeyError(f"{where!r} has no weights under key={key!r}; {told}")


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _tensors(value: Any) -> int:
    """Return how many tensors a dictionary has, but for numbers."""
    values = value.values() if _is_named(value) else ()
    return sum(isinstance(v, Tensor) and v.dim() > 0 for v in values)


def renamed(entries: Entries, names: Iterable[str], revisions: Revisions | None) -> dict[str, Any]:
    """Return entries under the names that a model has for them.

    Names of wrappers are taken off (`_orig_mod.`, `_fsdp_wrapped_module.`, and `module.` at the
    front unless the names are the model's with it), then `revisions` are made.

    Args:
        entries: the entries.
        names: the model's own names.
        revisions: pairs of a regular expression and what takes its place, as for `re.sub`.

    Raises:
        ValueError: two entries get one name, or `revisions` are no pairs of texts.
    """
    own = set(names)
    revised = _compiled(revisions)
    found = _each(entries, _without_wrappers, _TAKEN_OFF)
    while found and all(key.startswith("module.") for key in found):
        inner = {key.removeprefix("module."): value for key, value in found.items()}
        if len(inner.keys() & own) < len(found.keys() & own):
            break
        found = inner
    if not any(name.startswith("module.") for name in own):
        found = _each(found, lambda key: key.removeprefix("module."), _TAKEN_OFF)
    return _each(found, revised, "revise_keys gives")


_TAKEN_OFF = "taking off the prefixes of wrappers gives"


def _without_wrappers(key: str) -> str:
    return _WRAPPERS.sub("", key)


def _each(entries: Entries, rename: Callable[[str], str], why: str) -> dict[str, Any]:
    """Return entries under new names.

    Raises:
        ValueError: two entries get one name.
    """
    found: dict[str, Any] = {}
    before: dict[str, str] = {}
    for key, value in entries.items():
        new = rename(key)
        if new in found:
            raise ValueError(f"{why} {before[new]!r} and {key!r} one name, {new!r}")
        found[new], before[new] = value, key
    return found


def _compiled(revisions: Revisions | None) -> Callable[[str], str]:
    """Return the function that revises a name.

    Raises:
        ValueError: they are no pairs, or a pattern is no regular expression.
    """
    try:
        patterns = [(re.compile(pattern), str(new)) for pattern, new in revisions or ()]
    except (re.error, TypeError, ValueError) as error:
        raise ValueError(
            f"revise_keys={revisions!r}: give pairs of a regular expression and its replacement, "
            f"as [(r'^net\\.', '')] ({error})"
        ) from error

    def revised(key: str) -> str:
        for pattern, new in patterns:
            key = pattern.sub(new, key)
        return key

    return revised


def below(prefix: str, entries: Entries, where: str) -> dict[str, Any]:
    """Return the entries below a name, which has a dot at its end or has not.

    Raises:
        AssertionError: there are none.
        ValueError: two entries get one name.
    """
    dotted = prefix if prefix.endswith(".") else f"{prefix}."
    found: dict[str, Any] = {}
    named = dict(entries)
    # The prefix may be inside of wrappers.
    for rename in (str, _without_wrappers, lambda key: key.removeprefix("module.")):
        if found:
            break
        named = _each(named, rename, _TAKEN_OFF)
        found = {k.removeprefix(dotted): v for k, v in named.items() if k.startswith(dotted)}
    if not found:
        tops = _listed(sorted({key.split(".")[0] for key in entries}))
        raise AssertionError(
            f"nothing in {where!r} has the prefix {dotted!r}; its names begin with {tops}"
        )
    return found


def nothing_fits(
    where: str, what: str, entries: Iterable[str], names: Iterable[str], others: Iterable[str]
) -> str:
    """Return the message of a checkpoint of which no name is the model's: both sides, and what
    would help."""
    theirs, ours = list(entries), list(names)
    hints = []
    if prefix := _prefix_for(theirs, ours):
        hints.append(f"with prefix={prefix!r} they would fit")
    elif prefix := _prefix_for(ours, theirs):
        hints.append(
            f"the model has them below {prefix!r}: give the rule to that part of it, or "
            f"revise_keys=[(r'^', {prefix + '.'!r})]"
        )
    nested = list(others)
    if len(nested) > 1:
        hints.append(f"the file also holds {_listed(nested)}, for key=")
    told = "; ".join(hints) or "it is another model's"
    return (
        f"nothing in {where!r} fits {what}: it has {_listed(theirs)}, the model {_listed(ours)}; "
        f"{told}"
    )


def _prefix_for(longer: Sequence[str], shorter: Sequence[str]) -> str | None:
    """Return the prefix that the most of the longer names have before shorter ones."""
    ends = set(shorter)
    counts: dict[str, int] = {}
    for name in longer:
        steps = name.split(".")
        for n in range(1, len(steps)):
            if ".".join(steps[n:]) in ends:
                prefix = ".".join(steps[:n])
                counts[prefix] = counts.get(prefix, 0) + 1
    return max(counts, key=counts.__getitem__) if counts else None


def _listed(names: Iterable[str]) -> str:
    every = [repr(name) for name in names]
    rest = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return (", ".join(every[:_SHOWN]) or "nothing") + rest
