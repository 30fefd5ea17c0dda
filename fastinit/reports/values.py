"""The values of tensors in numbers, against the rules that asked for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastinit.manifest.manifest import Manifest, Written
from fastinit.manifest.words import law, std
from fastinit.tensors.shards import local_region
from fastinit.tensors.walk import walk

BINS = 48
REACH = 4.0
"""A histogram goes from -REACH to REACH standard deviations about the mean."""

_CHUNK = 1 << 22  # elements looked at in one step, to bound the memory
_SIGMAS = 6.0  # a standard deviation further from its rule than by chance
_CLOSE = 0.02  # and by more than this part of it


@dataclass(frozen=True)
class TensorStats:
    """A tensor of a model, of a sharded one this rank's part.

    Attributes:
        name: its FQN.
        shape, dtype: as they are here.
        mean, std, low, high: of the values that are finite; NaN if there are none.
        zeros: the part of the values that is zero, 0 to 1.
        non_finite: how many values are infinite or NaN.
        counts: histogram of `BINS` equal bins from -`REACH` to `REACH` standard deviations about
            the mean, values beyond them in the outermost; empty if all values are equal.
        law: what was asked for, in words; "" without a manifest.
        expected: the standard deviation of that law; None if unknown.
        flags: what is wrong or suspicious, in words.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    mean: float
    std: float
    low: float
    high: float
    zeros: float
    non_finite: int
    counts: tuple[int, ...] = ()
    law: str = ""
    expected: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def named_values(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the floating-point parameters and buffers of a model, each once, or the tensors of a
    mapping.

    Raises:
        TypeError: the model is neither.
        ValueError: one of them is on meta memory, or there are none.
    """
    if isinstance(model, nn.Module):
        pairs: Iterator[tuple[str, Tensor]] = (
            (prefix + name, tensor)
            for prefix, module in walk(model)
            for held in (module._parameters, module._buffers)
            for name, tensor in held.items()
            if tensor is not None
        )
    elif isinstance(model, Mapping):
        pairs = ((name, t) for name, t in model.items() if isinstance(t, Tensor))
    else:
        raise TypeError(
            f"model must be a module or a mapping from names to tensors, got {type(model).__name__}"
        )
    once = isinstance(model, nn.Module)
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in pairs:
        if (once and id(tensor) in seen) or not tensor.is_floating_point():
            continue
        if tensor.device.type == "meta":
            raise ValueError(
                f"{name!r} is on meta memory and has no values; call fastinit.materialize(model, "
                'device="cpu") first'
            )
        seen.add(id(tensor))
        found[name] = tensor
    if not found:
        raise ValueError("the model has no floating-point parameters or buffers to report on")
    return found


def measure(
    tensors: Mapping[str, Tensor], manifest: Manifest | None = None
) -> tuple[TensorStats, ...]:
    """Return the numbers of each tensor, and flags against its rule and the other tensors."""
    found = []
    with torch.no_grad():
        for name, tensor in tensors.items():
            entry = _entry(manifest, name)
            measured = _measured(name, local_region(tensor).local)
            if entry is not None:
                measured = replace(measured, law=law(entry), expected=std(entry))
            is_parameter = isinstance(tensor, nn.Parameter)
            found.append(replace(measured, flags=tuple(_flags(measured, entry, is_parameter))))
        return tuple(_with_twins(found, tensors))


def _entry(manifest: Manifest | None, name: str) -> Written | None:
    try:
        return None if manifest is None else manifest.named(name)
    except KeyError:
        return None


def chunks(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the values as fp64, some at a time."""
    flat = tensor.reshape(-1)
    for first in range(0, flat.numel(), _CHUNK):
        yield flat[first : first + _CHUNK].double()


def _measured(name: str, tensor: Tensor) -> TensorStats:
    count = total = zeros = 0.0
    low, high = math.inf, -math.inf
    for part in chunks(tensor):
        finite = part[part.isfinite()]
        zeros += float((finite == 0).sum())
        if finite.numel():
            count += finite.numel()
            total += float(finite.sum())
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    mean = total / count if count else math.nan
    squares = sum(float((p[p.isfinite()] - mean).square().sum()) for p in chunks(tensor))
    deviation = math.sqrt(squares / count) if count else math.nan
    return TensorStats(
        name,
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        mean,
        deviation if low < high else deviation * 0,
        low if count else math.nan,
        high if count else math.nan,
        zeros / count if count else 0.0,
        tensor.numel() - int(count),
        _histogram(tensor, mean, deviation) if low < high else (),
    )


def _histogram(tensor: Tensor, mean: float, deviation: float) -> tuple[int, ...]:
    counts = torch.zeros(BINS, dtype=torch.float64)
    for part in chunks(tensor):
        scaled = (part[part.isfinite()] - mean) / deviation
        within = scaled.clamp(-REACH, REACH)
        counts += torch.histc(within, BINS, -REACH, REACH).cpu()
    return tuple(int(n) for n in counts.tolist())


def _flags(measured: TensorStats, entry: Written | None, is_parameter: bool) -> Iterator[str]:
    if measured.non_finite:
        yield f"{measured.non_finite:,} values are not finite"
    if entry is not None and entry.status == "unwritten":
        yield "nothing has written it"
    is_equal = measured.elements > 1 and not measured.counts and not measured.non_finite
    asked = entry is not None and bool(entry.fills)
    if is_equal and is_parameter and len(measured.shape) >= 2:
        if measured.low != 0:
            yield f"all values are {measured.low:g}: its units stay alike"
        elif not asked:
            yield "all values are 0"
    expected = measured.expected
    if expected is not None and measured.elements > 1 and not measured.non_finite:
        # Of n normals the standard deviation has one of its own of std / sqrt(2 n).
        chance = _SIGMAS / math.sqrt(2 * measured.elements)
        if abs(measured.std - expected) > max(chance, _CLOSE) * expected:
            yield f"std {measured.std:.3g}, its rule asks for {expected:.3g}"


def _with_twins(found: Sequence[TensorStats], tensors: Mapping[str, Tensor]) -> list[TensorStats]:
    """Return the same, with random tensors that repeat another flagged."""
    alike: dict[tuple[object, ...], str] = {}
    marked = []
    for each in found:
        key = (each.shape, each.dtype, each.mean, each.std, each.low, each.high)
        first = alike.setdefault(key, each.name) if each.counts and each.elements > 8 else each.name
        if first != each.name and _is_copy(tensors[first], tensors[each.name]):
            each = replace(each, flags=(*each.flags, f"has the values of {first}"))
        marked.append(each)
    return marked


def _is_copy(one: Tensor, other: Tensor) -> bool:
    a, b = local_region(one).local, local_region(other).local
    is_tied = a.device == b.device and a.data_ptr() == b.data_ptr()
    return not is_tied and torch.equal(a, b.to(a.device))
