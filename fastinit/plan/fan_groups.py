"""Fan groups: parameters that hold several logical matrices, each with its own fans."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastinit.kernels.distributions import Parameters
from fastinit.tensors import boxes
from fastinit.tensors.torch_private import unwatched

if TYPE_CHECKING:
    from fastinit._C import Recorder

Level = int | Sequence[int] | str
Shape = tuple[int, ...]

STACKED = "stacked"


class _Thread(threading.local):
    groups: Mapping[str, tuple[Level, ...]] = {}


_thread = _Thread()


@contextmanager
def fan_groups(groups: Mapping[str, Level | tuple[Level, ...]]) -> Iterator[None]:
    """Declare, for the block, parameters that hold several logical matrices.

    Fan rules (Xavier's, Kaiming's) then take the fans of each matrix: of the queries, keys and
    values of a fused projection, of an expert in a stack. Only the native backend does so, in plans
    that are opened in the block (`init_weights`, `fused`, `build`, `materialize`).

    Args:
        groups: from a pattern of parameter names (as for file names: `*.qkv.weight`) to what such a
            parameter holds: an integer n, for n equal parts along dimension 0; a list, of the sizes
            of the parts there; or `"stacked"`, for one matrix at each index of dimension 0. A tuple
            applies its entries in turn: `("stacked", 2)` is a stack of experts with two fused
            matrices each. The last pattern that matches counts.

    Raises:
        ValueError: not here, but when a parameter is filled that its declaration does not fit.

    Examples:
        >>> with fastinit.fan_groups({"*.qkv.weight": [4096, 1024, 1024], "*.experts": "stacked"}):
        ...     model.init_weights()
    """
    before = _thread.groups
    levels = {
        pattern: level if isinstance(level, tuple) else (level,)
        for pattern, level in groups.items()
    }
    outer = {pattern: known for pattern, known in before.items() if pattern not in levels}
    _thread.groups = {**outer, **levels}
    try:
        yield
    finally:
        _thread.groups = before


def declared() -> Mapping[str, tuple[Level, ...]]:
    """Return the declarations in force in this thread."""
    return _thread.groups


def levels_of(name: str, groups: Mapping[str, tuple[Level, ...]]) -> tuple[Level, ...] | None:
    """Return the declaration for a parameter, the last one that matches; None without one."""
    found = [levels for pattern, levels in groups.items() if fnmatchcase(name, pattern)]
    return found[-1] if found else None


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


def early_without_groups(recorder: Recorder) -> list[str]:
    """Return names with fan groups whose tensors were drawn before they had the name."""
    groups = declared()
    return [name for name in recorder.early_names() if groups and levels_of(name, groups)]


Block = tuple[int, int, boxes.Box]
"""A part of a tensor: its distance from the first element in memory, and its start and box."""


def blocks_by(
    groups: Mapping[str, tuple[Level, ...]],
) -> Callable[..., list[tuple[Parameters, list[Block]]] | None]:
    """Return the function that tells a recorder how to fill a tensor by its logical matrices."""

    def blocks(
        name: str, whole: Tensor, fan_rule: Callable[[Shape], tuple[float, ...]], given: Parameters
    ) -> list[tuple[Parameters, list[Block]]] | None:
        """Return the parameters and the matrices that take them; None without a declaration.

        Raises:
            ValueError: the declaration does not fit the tensor.
        """
        levels = levels_of(name, groups)
        if levels is None:
            return None
        found: dict[Parameters, list[Block]] = {}
        with unwatched():
            for where, shape in parts(name, whole.shape, levels):
                by_fans: Any = fan_rule(shape)
                view = whole[where] if where else whole
                place = boxes.box_in(view, whole)
                assert place is not None
                start, box = place
                if isinstance(box, int):
                    box = ((box, 1, 1),)
                distance = view.storage_offset() - whole.storage_offset()
                padded = (*by_fans, *given[len(by_fans) :])
                found.setdefault(padded, []).append((int(distance), start, box))
        return list(found.items())

    return blocks
