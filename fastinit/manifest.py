"""What a plan wrote, as data: to read, to keep, to make any part of it again.

A manifest is JSON: the version of the stream, and for every tensor the fills that its values come
from. Because a value is a pure function of seed, stream, index, rule and dtype, a slice of any
parameter can be made from its entry alone, whatever model or machine it belongs to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastinit import fills
from fastinit.cuda import place_of
from fastinit.names import named_tensors, stream_of, walk

if TYPE_CHECKING:
    from rich.table import Table

VERSION = 1  # of the stream, and of this format
RULES = ("constant", "uniform", "normal", "trunc_normal")
_ARGUMENTS = (("value",), ("a", "b"), ("mean", "std"), ("mean", "std", "a", "b"))
_CHUNK = 1 << 24  # elements compared at a time


@dataclass(frozen=True)
class Drawn:
    """One executed fill of a tensor, or of a box of one.

    Attributes:
        rule: constant, uniform, normal or trunc_normal.
        parameters: by the names that `torch.nn.init` has for them.
        stream: name of the Philox stream, see the README's "What is promised".
        seed: the 64-bit Philox key.
        start: row-major index of the first element written.
        box: (size, index stride) of each dimension written; None for the whole tensor.
        origin: what asked for it, as far as it is known.
    """

    rule: str
    parameters: dict[str, float]
    stream: str
    seed: int
    start: int = 0
    box: tuple[tuple[int, int], ...] | None = None
    origin: str = ""

    @classmethod
    def of(
        cls, kind: int, parameters: fills.Parameters, stream: str, seed: int, origin: str
    ) -> Drawn:
        """Of a whole tensor."""
        named = dict(zip(_ARGUMENTS[kind], parameters, strict=False))
        return cls(RULES[kind], named, stream, seed, origin=origin)

    def row(self, tensor: Tensor, start: int, box: fills.Box) -> tuple[Any, ...]:
        """Of the kernels' table: `tensor` as that part of the whole."""
        kind = RULES.index(self.rule)
        values = [self.parameters[name] for name in _ARGUMENTS[kind]]
        four = tuple(values + [0.0] * (4 - len(values)))
        stream = stream_of(self.stream)
        return fills.segment(tensor, kind, four, self.seed, stream, start, box)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Written:
    """A tensor of a plan.

    Attributes:
        name: fully qualified, or "#n" for the n-th tensor without one.
        shape, dtype: of the whole tensor.
        status: "filled", "computed" (code gave it other values) or "unwritten".
        fills: what the values of a filled one come from, in order.
        writes: fills that were asked for, those overwritten before they were executed included.
        aliases: further names of the same tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    status: str
    fills: tuple[Drawn, ...] = ()
    writes: int = 0
    aliases: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        status: str | None,
        drawn: Sequence[Drawn],
        writes: int,
    ) -> Written:
        """Filled if the fills cover the tensor, unless `status` says otherwise."""
        if status is None:
            status = "filled" if drawn and drawn[0].box is None else "computed"
        used = tuple(drawn) if status == "filled" else ()
        return cls(name, tuple(shape), fills.name_of(dtype), status, used, writes)


@dataclass(frozen=True)
class Manifest:
    """All of a plan. `unmatched` are rules that wrote nothing."""

    tensors: tuple[Written, ...]
    unmatched: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As JSON text, which `load` reads."""
        return json.dumps({"stream_version": VERSION, **asdict(self)}, indent=1)

    def table(self) -> Table:
        """For people: a row for every tensor; `rich.print` it."""
        from rich.table import Table

        table = Table("tensor", "shape", "dtype", "rule", "stream", "seed", "origin")
        for tensor in self.tensors:
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            name = " = ".join((tensor.name, *tensor.aliases))
            if not tensor.fills:
                table.add_row(name, shape, tensor.dtype, f"[i]{tensor.status}[/i]")
            for drawn in tensor.fills:
                arguments = ", ".join(f"{k}={v:g}" for k, v in drawn.parameters.items())
                part = "" if drawn.box is None else " (part)"
                again = f" [i]written {tensor.writes} times[/i]" if tensor.writes > 1 else ""
                rule = f"{drawn.rule}({arguments}){part}{again}"
                row = (name, shape, tensor.dtype, rule, drawn.stream, str(drawn.seed))
                table.add_row(*row, drawn.origin)
        for rule_text in self.unmatched:
            table.add_row("[i]nothing[/i]", "", "", rule_text)
        return table

    def named(self, name: str) -> Written:
        """The tensor of this name or alias.

        Raises:
            KeyError: there is none.
        """
        for tensor in self.tensors:
            if name == tensor.name or name in tensor.aliases:
                return tensor
        raise KeyError(f"the manifest has no tensor {name!r}")


def load(manifest: Manifest | str | Mapping[str, Any]) -> Manifest:
    """A manifest from its JSON text, or from that parsed.

    Raises:
        ValueError: it is of another version of the stream.
    """
    if isinstance(manifest, Manifest):
        return manifest
    data = json.loads(manifest) if isinstance(manifest, str) else manifest
    if data.get("stream_version") != VERSION:
        raise ValueError(
            f"the manifest is of stream version {data.get('stream_version')}, this is {VERSION}"
        )

    def drawn(entry: Mapping[str, Any]) -> Drawn:
        box = entry["box"]
        return Drawn(**{**entry, "box": None if box is None else tuple(map(tuple, box))})

    def written(entry: Mapping[str, Any]) -> Written:
        parts = {key: tuple(entry[key]) for key in ("shape", "aliases")}
        return Written(**{**entry, **parts, "fills": tuple(map(drawn, entry["fills"]))})

    return Manifest(tuple(map(written, data["tensors"])), tuple(data["unmatched"]))


def rows(out: Tensor, tensor: Written, first: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    """Rows of the kernels' table that fill `out`, of any strides, with the part of a tensor that
    begins at the multi-index `first`. Later rows overwrite earlier ones.

    Raises:
        ValueError: the values are not those of fills.
    """
    if tensor.status != "filled":
        raise ValueError(f"{tensor.name} is {tensor.status}: no rule gives its values")
    first = tuple(first)
    strides = fills.row_major(tensor.shape)
    for drawn in tensor.fills:
        target, begin = out, first
        if drawn.box is not None:
            part = _overlap(drawn, tensor, out.shape, first)
            if part is None:
                continue
            slices, begin = part
            target = out[slices]
        if target.numel():
            start = sum(i * stride for i, stride in zip(begin, strides, strict=True))
            box = tuple(zip(target.shape, target.stride(), _steps(drawn, strides), strict=True))
            yield drawn.row(target, start, box)


def _steps(drawn: Drawn, strides: list[int]) -> list[int]:
    """Index stride of each dimension of what `drawn` writes."""
    return strides if drawn.box is None else [step for _, step in _dims(drawn, strides)]


def _dims(drawn: Drawn, strides: list[int]) -> list[tuple[int, int]]:
    """(number of steps, index stride) of a box along each dimension of its whole.

    Raises:
        ValueError: a step of the box goes along several dimensions at once.
    """
    assert drawn.box is not None
    dims = [(1, stride) for stride in strides]
    for size, step in drawn.box:
        if size == 1:
            continue
        along = [d for d, stride in enumerate(strides) if step % stride == 0]
        d = min(along, key=lambda d: step // strides[d])
        if dims[d][0] != 1:
            raise ValueError(f"the box {drawn.box} does not follow the tensor's dimensions")
        dims[d] = (size, step)
    return dims


def follows_dimensions(drawn: Drawn, shape: Sequence[int]) -> bool:
    """Whether a box is a slice of each dimension, as the padding row is and a diagonal is not."""
    strides = fills.row_major(shape)
    try:
        dims = _dims(drawn, strides)
    except ValueError:
        return False
    rest = drawn.start
    for (size, step), stride, length in zip(dims, strides, shape, strict=True):
        at, rest = divmod(rest, stride)
        if at + (size - 1) * (step // stride) >= length:
            return False
    return True


def _overlap(
    drawn: Drawn, tensor: Written, shape: torch.Size, first: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[int, ...]] | None:
    """Of a box and the region of `shape` at `first`: slices of the region, and the multi-index at
    which they begin."""
    strides = fills.row_major(tensor.shape)
    slices, begin, rest = [], [], drawn.start
    for (size, step), stride, low, count in zip(
        _dims(drawn, strides), strides, first, shape, strict=True
    ):
        at, rest = divmod(rest, stride)
        stride_in_dim = step // stride
        skipped = max(0, -(-(low - at) // stride_in_dim))
        from_ = at + skipped * stride_in_dim
        last = at + (size - 1) * stride_in_dim
        stop = min(last, low + count - 1)
        if from_ > stop:
            return None
        slices.append(slice(from_ - low, stop - low + 1, stride_in_dim))
        begin.append(from_)
    return tuple(slices), tuple(begin)


def regenerate(
    manifest: Manifest | str | Mapping[str, Any],
    name: str,
    index: Any = ...,
    *,
    device: torch.device | str | int | None = None,
) -> Tensor:
    """A slice of a tensor as it was initialised, from the manifest alone.

    Args:
        manifest: of `plan.to_json()`, as text or parsed.
        name: of the tensor.
        index: an integer, a slice with a positive step, `...`, or a tuple of them.
        device: where; the CPU by default.

    Returns:
        What `tensor[index]` was after initialisation, bit for bit.

    Raises:
        KeyError: the manifest has no such tensor.
        IndexError: the index has too many dimensions, or is out of range.
        ValueError: the tensor's values come from code, not from a rule.
    """
    tensor = load(manifest).named(name)
    ranges, dropped = _ranges(index, tensor.shape)
    # The smallest block without steps around what is asked for.
    first = [r.start for r in ranges]
    shape = [r[-1] - r.start + 1 if len(r) else 0 for r in ranges]
    out = torch.empty(shape, dtype=getattr(torch, tensor.dtype), device=device)
    for row in rows(out, tensor, first):
        fills.execute(place_of(out), [row])
    picked = out[tuple(slice(None, None, r.step) for r in ranges)]
    return picked[tuple(0 if d in dropped else slice(None) for d in range(len(ranges)))]


def _ranges(index: Any, shape: tuple[int, ...]) -> tuple[list[range], set[int]]:
    """What a basic index selects of each dimension, and the dimensions that it drops."""
    items = list(index) if isinstance(index, tuple) else [index]
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
            position = int(item) + (size if int(item) < 0 else 0)
            if not 0 <= position < size:
                raise IndexError(f"{item} is out of range for dimension {d} of size {size}")
            ranges.append(range(position, position + 1))
            dropped.add(d)
    return ranges, dropped


def verify(
    model: nn.Module, manifest: Manifest | str | Mapping[str, Any]
) -> dict[str, bool | None]:
    """Which parameters and buffers of a model still hold their initial values, bit for bit.

    Args:
        model: on any device; nothing in it is changed.
        manifest: of `plan.to_json()`, as text or parsed.

    Returns:
        By name: whether it does, or None where no rule gives the values, or where the manifest does
        not know the tensor or knows it by another shape or dtype.
    """
    known = load(manifest)
    answers: dict[str, bool | None] = {}
    with torch.no_grad():
        for name, tensor in named_tensors(walk(model)):
            try:
                entry = known.named(name)
            except KeyError:
                answers[name] = None
                continue
            same_kind = (tuple(tensor.shape), str(tensor.dtype)) == (
                entry.shape,
                f"torch.{entry.dtype}",
            )
            answers[name] = _holds(tensor, entry) if same_kind and entry.fills else None
    return answers


def _holds(tensor: Tensor, entry: Written) -> bool:
    """Whether a tensor has the bits of its entry, compared in slabs along the first dimension."""
    if tensor.dim() == 0:
        return _equal_bits(tensor, regenerate(Manifest((entry,)), entry.name, device=tensor.device))
    rows = max(1, _CHUNK // max(1, math.prod(tensor.shape[1:])))
    return all(
        _equal_bits(
            tensor[low : low + rows],
            regenerate(
                Manifest((entry,)), entry.name, slice(low, low + rows), device=tensor.device
            ),
        )
        for low in range(0, tensor.shape[0], rows)
    )


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.detach().contiguous().view(integer), other.contiguous().view(integer))
