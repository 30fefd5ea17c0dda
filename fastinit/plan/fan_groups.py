"""Fan groups: parameters that hold several logical matrices, each with its own fans."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastinit.kernels.distributions import Parameters
from fastinit.plan.records import Taken
from fastinit.tensors import boxes
from fastinit.tensors.storage import storage_key
from fastinit.tensors.torch_private import unwatched
from fastinit.warning import UnusedRuleWarning

if TYPE_CHECKING:
    from fastinit._C import Recorder

Level = int | Sequence[int] | str
Shape = tuple[int, ...]

STACKED = "stacked"


class _Thread(threading.local):
    groups: Mapping[str, tuple[Level, ...]] = {}

    def __init__(self) -> None:
        self.asked: set[str] = set()  # names of what fan rules filled
        self.matched: set[str] = set()  # patterns


_thread = _Thread()


@contextmanager
def fan_groups(groups: Mapping[str, Level | tuple[Level, ...]]) -> Iterator[None]:
    """Declare, for the block, parameters that hold several logical matrices.

    Fan rules (Xavier's, Kaiming's) then take the fans of each matrix: of the queries, keys and
    values of a fused projection, of an expert in a stack. Only the native backend does so, in plans
    that are opened in the block (`init_weights`, `fused`, `build`, `materialize`).

    Args:
        groups: from a pattern of parameter names (as for file names; `*.qkv.weight` also means a
            `qkv.weight` at the top) to what such a parameter holds: an integer n, for n equal parts
            along dimension 0; a list, of the sizes of the parts there; or `"stacked"`, for one
            matrix at each index of dimension 0. A tuple applies its entries in turn:
            `("stacked", 2)` is a stack of experts with two fused matrices each. The last pattern
            that matches counts.

    A pattern that matches nothing that fans fill gets a UserWarning at the end of the block.

    Raises:
        TypeError: `groups` is no mapping.
        ValueError: what is neither; when a parameter is filled, a declaration that does not fit it.

    Examples:
        >>> with fastinit.fan_groups({"*.qkv.weight": [4096, 1024, 1024], "*.experts": "stacked"}):
        ...     model.init_weights()
    """
    if not isinstance(groups, Mapping):
        raise TypeError(
            f"fan_groups: groups must map patterns to what parameters hold, got {groups!r}; for "
            'example {"*.qkv.weight": 3}'
        )
    before = _thread.groups, _thread.asked, _thread.matched
    levels = {
        pattern: level if isinstance(level, tuple) else (level,)
        for pattern, level in groups.items()
    }
    for pattern, level in levels.items():
        for each in level:
            sizes = each if isinstance(each, (list, tuple)) else [each]
            if each != STACKED and not all(isinstance(n, int) and n > 0 for n in sizes):
                raise ValueError(
                    f"fan_groups: {pattern!r} holds {each!r}; give a positive integer, a list of "
                    f"them, or {STACKED!r}"
                )
    outer = {pattern: known for pattern, known in before[0].items() if pattern not in levels}
    _thread.groups, _thread.asked, _thread.matched = {**outer, **levels}, set(), set()
    try:
        yield
        _warn_of_unmatched(levels)
    finally:
        before[1].update(_thread.asked)
        before[2].update(_thread.matched)
        _thread.groups, _thread.asked, _thread.matched = before


def _warn_of_unmatched(levels: Mapping[str, tuple[Level, ...]]) -> None:
    for pattern in levels:
        if pattern in _thread.matched:
            continue
        near = get_close_matches(pattern.removeprefix("*."), _thread.asked, n=1, cutoff=0.4)
        hint = f"; nearest: {near[0]!r}" if near else ""
        warnings.warn(
            f"fan_groups: the pattern {pattern!r} matched no parameter that was filled by fans"
            f"{hint}",
            UnusedRuleWarning,
            stacklevel=4,
        )


def declared() -> Mapping[str, tuple[Level, ...]]:
    """Return the declarations in force in this thread."""
    return _thread.groups


def levels_of(name: str, groups: Mapping[str, tuple[Level, ...]]) -> tuple[Level, ...] | None:
    """Return the declaration for a parameter, the last one that matches; None without one."""
    found = [pattern for pattern in groups if matches(name, pattern)]
    _thread.asked.add(name)
    _thread.matched.update(found[-1:])
    return groups[found[-1]] if found else None


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches the name of a parameter; `*.qkv.weight` also means a `qkv.weight`
    at the top."""
    is_top = pattern.startswith("*.") and fnmatchcase(name, pattern[2:])
    return is_top or fnmatchcase(name, pattern)


def parts(
    name: str, shape: Sequence[int], levels: Sequence[Level]
) -> list[tuple[tuple[slice, ...], Shape]]:
    """Return (slices, shape) of each logical matrix of a parameter.

    Raises:
        ValueError: the declaration does not fit the shape.
    """
    if not levels:
        return [((), tuple(shape))]
    level, *rest = levels
    if not shape:
        raise ValueError(f"fan_groups: {name} has too few dimensions for {levels}")
    size, *others = shape
    if level == STACKED:
        inner = parts(name, others, rest)
        return [((slice(n, n + 1), *where), shape) for n in range(size) for where, shape in inner]
    if isinstance(level, int) and level > 0 and size % level == 0:
        sizes: Sequence[int] = [size // level] * level
    elif isinstance(level, Sequence) and not isinstance(level, str) and sum(level) == size:
        sizes = level
    else:
        raise ValueError(
            f"fan_groups: {level!r} does not divide the {size} rows of {name}; give a divisor, the "
            f"sizes of the parts, or {STACKED!r}"
        )
    found = []
    for stop, length in zip(accumulate(sizes), sizes, strict=True):
        for where, shape in parts(name, (length, *others), rest):
            begin = stop - length
            first, *further = where or (slice(0, length),)
            found.append(((slice(begin + first.start, begin + first.stop), *further), shape))
    return found


def matrices(
    names: Sequence[str], shape: Sequence[int], groups: Mapping[str, tuple[Level, ...]]
) -> dict[Shape, list[tuple[slice, ...]]] | None:
    """Return, by shape, the logical matrices of a tensor with these names; None if it is one."""
    levels = levels_of(names[0], groups) if names else None
    if levels is None:
        return None
    found: dict[Shape, list[tuple[slice, ...]]] = {}
    for part, own in parts(names[0], shape, levels):
        found.setdefault(own, []).append(part)
    return found


def early_without_groups(recorder: Recorder, ungrouped: Sequence[Tensor]) -> list[str]:
    """Return names with fan groups whose tensors were drawn, or are among those that were made
    orthogonal, before they had the name."""
    groups = declared()
    if not groups:
        return []
    early = dict.fromkeys(recorder.early_names())
    for tensor in ungrouped:
        early |= dict.fromkeys(name for name, _ in recorder.named(storage_key(tensor)))
    return [name for name in early if levels_of(name, groups)]


Block = tuple[int, int, boxes.Box, Taken | None]
"""A part of a tensor: its distance from the first element in memory, its start and box, and, for a
shard, what it is of the whole."""


def blocks_by(
    groups: Mapping[str, tuple[Level, ...]],
) -> Callable[..., list[tuple[Parameters, list[Block]]] | None]:
    """Return the function that tells a recorder how to fill a tensor by its logical matrices."""

    def blocks(
        name: str,
        tensor: Tensor,
        fan_rule: Callable[[Shape], tuple[float, ...]],
        given: Parameters,
        region: tuple[Shape, Shape] | None,
    ) -> list[tuple[Parameters, list[Block]]] | None:
        """Return the parameters and the matrices that take them; None without a declaration.

        `region` is (first, shape of the whole) of a shard.

        Raises:
            ValueError: the declaration does not fit the tensor.
        """
        levels = levels_of(name, groups)
        if levels is None:
            return None
        found: dict[Parameters, list[Block]] = {}
        with unwatched():
            for where, shape in parts(name, tensor.shape if region is None else region[1], levels):
                by_fans: Any = fan_rule(shape)
                padded = (*by_fans, *given[len(by_fans) :])
                block = (
                    _block(tensor, where) if region is None else _of_shard(tensor, where, *region)
                )
                found.setdefault(padded, []).append(block)
        return list(found.items())

    return blocks


def _block(whole: Tensor, where: tuple[slice, ...]) -> Block:
    view = whole[where] if where else whole
    place = boxes.box_in(view, whole)
    assert place is not None
    start, box = place
    if isinstance(box, int):
        box = ((box, 1, 1),)
    return int(view.storage_offset() - whole.storage_offset()), start, box, None


def _of_shard(local: Tensor, where: tuple[slice, ...], first: Shape, shape: Shape) -> Block:
    strides = boxes.row_major(shape)
    whole = (slice(None),) * (len(shape) - len(where))
    taken = tuple(
        range(*part.indices(size)) for part, size in zip((*where, *whole), shape, strict=True)
    )
    told = (
        sum(r.start * stride for r, stride in zip(taken, strides, strict=True)),
        tuple((len(r), stride) for r, stride in zip(taken, strides, strict=True)),
    )
    mine = local[boxes.within(taken, first, local.shape)]
    if mine.numel() == 0:
        return 0, 0, (), told
    begin = [max(r.start, low) for r, low in zip(taken, first, strict=True)]
    start = sum(i * stride for i, stride in zip(begin, strides, strict=True))
    box = tuple(zip(mine.shape, mine.stride(), strides, strict=True))
    return int(mine.storage_offset() - local.storage_offset()), start, box, told
