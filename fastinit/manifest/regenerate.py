"""Regeneration: any part of a tensor as it was initialised, from its manifest alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastinit.kernels import table, tails
from fastinit.kernels.cuda import Place, place_of
from fastinit.kernels.table import Row
from fastinit.kernels.tails import Tail
from fastinit.manifest.manifest import Drawn, Manifest, Written
from fastinit.manifest.read import load
from fastinit.tensors import boxes


class Step(NamedTuple):
    """A step of making part of a tensor again: a row of the kernels' table, and the operations that
    follow on what it writes."""

    row: Row
    target: Tensor
    tail: Tail


def execute(place: Place | None, steps: Sequence[Step]) -> None:
    """Carry out steps that write different memory."""
    table.execute(place, [step.row for step in steps])
    for step in steps:
        tails.apply(step.target, step.tail)


def steps(out: Tensor, tensor: Written, first: Iterable[int]) -> Iterator[Step]:
    """Yield the steps that fill `out` with the part of a tensor that begins at the multi-index
    `first`, rounded to the dtype of `out`: the tensor's own, or, if `can_round` and without tails,
    another. Later steps overwrite earlier ones.

    Raises:
        ValueError: the tensor's values do not come from fills.
    """
    if tensor.status != "filled":
        raise ValueError(f"{tensor.name} is {tensor.status}: no rule gives its values")
    first = tuple(first)
    strides = boxes.row_major(tensor.shape)
    is_cast = out.dtype != getattr(torch, tensor.dtype)
    for drawn in map(Drawn.cast, tensor.fills) if is_cast else tensor.fills:
        target, begin, strided = out, first, strides
        if drawn.box is not None:
            taken = boxes.ranges(drawn.start, drawn.box, tensor.shape)
            if taken is None:
                raise ValueError(f"{tensor.name}: {drawn.box} does not follow its dimensions")
            here = list(map(boxes.clipped, taken, first, out.shape))
            if not all(map(len, here)):
                continue
            target = out[
                tuple(
                    slice(r.start - low, r.stop - low, r.step)
                    for r, low in zip(here, first, strict=True)
                )
            ]
            begin = tuple(r.start for r in here)
            strided = [r.step * stride for r, stride in zip(here, strides, strict=True)]
        if target.numel():
            start = sum(i * stride for i, stride in zip(begin, strides, strict=True))
            box = tuple(zip(target.shape, target.stride(), strided, strict=True))
            tail = tuple((name, tuple(given.items())) for name, given in drawn.tail)
            yield Step(drawn.row(target, start, box), target, tail)


def regenerate(
    manifest: Manifest | str | Mapping[str, Any],
    name: str,
    index: Any = ...,
    *,
    device: torch.device | str | int | None = None,
) -> Tensor:
    """Return a slice of a tensor as it was initialised, from the manifest alone.

    Args:
        manifest: the result of `plan.to_json()`, as text or parsed.
        name: the tensor's name or alias in it.
        index: an integer, a slice with a positive step, `...`, or a tuple of these; by default all.
        device: the device of the result; by default torch's default device, usually the CPU.

    Returns:
        `tensor[index]` as it was after initialisation, bit for bit, in the tensor's dtype.

    Raises:
        KeyError: the manifest has no such tensor.
        IndexError: the index is of another kind, has too many dimensions, or is out of range.
        ValueError: no fills give the tensor's values (code computed them, or nothing wrote it); the
            manifest is of another stream version.
    """
    tensor = load(manifest).named(name)
    ranges, dropped = _ranges(index, tensor.shape)
    # The smallest block without steps that contains the slice.
    first = [r.start for r in ranges]
    shape = [r[-1] - r.start + 1 if len(r) else 0 for r in ranges]
    out = torch.empty(shape, dtype=getattr(torch, tensor.dtype), device=device)
    for step in steps(out, tensor, first):
        execute(place_of(out), [step])
    picked = out[tuple(slice(None, None, r.step) for r in ranges)]
    return picked[tuple(0 if d in dropped else slice(None) for d in range(len(ranges)))]


def _ranges(index: Any, shape: tuple[int, ...]) -> tuple[list[range], set[int]]:
    """Return the range of each dimension that a basic index selects, and the dropped dimensions."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(item, bool) or not _is_basic(item) for item in items):
        raise IndexError(f"{index} is not made of integers, slices and ... alone")
    if items.count(Ellipsis) > 1:
        raise IndexError(f"{index} has more than one ellipsis")
    given = sum(item is not Ellipsis for item in items)
    if given > len(shape):
        raise IndexError(f"{index} has too many dimensions for the shape {shape}")
    at = items.index(Ellipsis) if Ellipsis in items else len(items)
    items[at : at + 1] = [slice(None)] * (len(shape) - given)
    ranges, dropped = [], set()
    for d, (item, size) in enumerate(zip(items, shape, strict=True)):
        if isinstance(item, slice):
            selected = range(*item.indices(size))
            if selected.step < 1:
                raise IndexError(f"the slice {item} has a step that is not positive")
            ranges.append(selected)
        else:
            number = int(item)
            position = number + (size if number < 0 else 0)
            if not 0 <= position < size:
                raise IndexError(f"{item} is out of range for dimension {d} of size {size}")
            ranges.append(range(position, position + 1))
            dropped.add(d)
    return ranges, dropped


def _is_basic(item: Any) -> bool:
    return item is Ellipsis or isinstance(item, (slice, Integral))
