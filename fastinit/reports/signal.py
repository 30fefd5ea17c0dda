"""What a model does to a signal: the scale of activations and gradients through its depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

_APART = 1e3  # a scale so many times another has vanished or exploded
_DEAD = 0.99  # of an output that is zero

See = Callable[[str, nn.Module, Tensor], None]


@dataclass(frozen=True)
class LayerStats:
    """One call of a module in a forward pass, and what came back to its output.

    Attributes:
        name: the module's name; a second call of the same module has " (2)" behind it.
        kind: its class.
        is_block: whether it is one of a list, with modules inside: a residual stream shows there.
        activation: root mean square of its output.
        gradient: root mean square of the gradient of its output; None if none arrived.
        zeros: the part of its output that is zero, 0 to 1.
        flags: what is wrong or suspicious, in words.
    """

    name: str
    kind: str
    is_block: bool
    activation: float
    gradient: float | None
    zeros: float
    flags: tuple[str, ...] = ()


def signal(
    model: nn.Module, inputs: Any, loss: Callable[[Any], Tensor] | None = None
) -> tuple[LayerStats, ...]:
    """Run a model forward and backward once, in the mode that it is in, and leave it as it was.

    Args:
        model: with values in memory.
        inputs: a tensor, a tuple or list of arguments, or a mapping of keywords.
        loss: a function from the model's output to a scalar; by default each output is given a
            gradient of random signs, whose root mean square is 1.

    Returns:
        The calls of modules without children, and of the members of lists, in order.

    Raises:
        ValueError: the output has no floating-point tensor, or no module was called.
    """
    calls: list[tuple[str, nn.Module, float, float]] = []
    gradients: dict[int, float] = {}

    def see(name: str, module: nn.Module, output: Tensor) -> None:
        place = len(calls)
        zeros = float((output.detach() == 0).float().mean())
        calls.append((name, module, _rms(output), zeros))
        if output.requires_grad:
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda g: gradients.__setitem__(place, _rms(g))
            )

    with kept(model), torch.enable_grad(), watched(model, see):
        output = run(model, inputs)
        _backward(model, output, loss)
    if not calls:
        raise ValueError("the forward pass called no module of the model that returns a tensor")
    asked = any(p.requires_grad for p in model.parameters())
    found = [
        LayerStats(name, type(m).__name__, is_block(model, name), scale, gradients.get(n), zeros)
        for n, (name, m, scale, zeros) in enumerate(calls)
    ]
    return tuple(_flagged(_numbered(found), asked))


def run(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tensor, a tuple or list of arguments, or a mapping of keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def outputs_of(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of what a model returned.

    Raises:
        ValueError: there are none.
    """
    found = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    if not found:
        raise ValueError(
            f"the model returned {type(output).__name__}, in which no floating-point tensor is "
            "known; give loss=, a function from that to a scalar"
        )
    return found


def signs(like: Tensor) -> Tensor:
    """Return -1s and 1s of a tensor's shape, always the same."""
    drawn = torch.randint(0, 2, like.shape, generator=torch.Generator().manual_seed(0))
    return (drawn * 2 - 1).to(like)


def _backward(model: nn.Module, output: Any, loss: Callable[[Any], Tensor] | None) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    ends = [loss(output)] if loss is not None else outputs_of(output)
    ends = [end for end in ends if end.requires_grad]
    if parameters and ends:
        # Not backward(), which would add to the parameters' gradients.
        seeds = None if loss is not None else [signs(end) for end in ends]
        torch.autograd.grad(ends, parameters, seeds, allow_unused=True)


@contextmanager
def watched(model: nn.Module, see: See) -> Iterator[None]:
    """Have `see` called with name, module and output of each call of a module without children, or
    of a member of a list."""

    def hook(name: str) -> Callable[..., None]:
        def called(module: nn.Module, _: Any, output: Any) -> None:
            leaves = tree_leaves(output)
            first = next(
                (t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()), None
            )
            if first is not None and first.numel():
                see(name, module, first)

        return called

    wanted = [
        (name, module)
        for name, module in model.named_modules()
        if not module._modules or is_block(model, name)
    ]
    handles = [module.register_forward_hook(hook(name)) for name, module in wanted]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_block(model: nn.Module, name: str) -> bool:
    """Whether a module has modules inside, and is a member of a list."""
    above, _, last = name.rpartition(".")
    if not last.isdigit() or not model.get_submodule(name)._modules:
        return False
    return isinstance(model.get_submodule(above), (nn.ModuleList, nn.Sequential))


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Seed torch's generators, and put them and the buffers (running means) back afterwards."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    gpus = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    try:
        with torch.random.fork_rng(gpus):
            torch.manual_seed(0)  # of dropout, so that two reports are equal
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


def _numbered(calls: Iterable[LayerStats]) -> list[LayerStats]:
    """Return the calls with a number behind the second and further ones of a module."""
    times: dict[str, int] = {}
    found = []
    for each in calls:
        times[each.name] = times.get(each.name, 0) + 1
        again = f" ({times[each.name]})" if times[each.name] > 1 else ""
        found.append(replace(each, name=each.name + again))
    return found


def _flagged(calls: list[LayerStats], asked: bool) -> Iterator[LayerStats]:
    """Yield the calls, those flagged whose scale left that of the first output, or of the last
    gradient, far behind."""
    forward = next((c.activation for c in calls if c.activation > 0), math.nan)
    back = next((c.gradient for c in reversed(calls) if c.gradient), math.nan)
    for call in calls:
        flags = []
        if not math.isfinite(call.activation):
            flags.append("its output is not finite")
        elif call.activation == 0:
            flags.append("its output is zero")
        elif flag := _apart("activation", call.activation, forward, "the first"):
            flags.append(flag)
        elif call.zeros > _DEAD:
            flags.append(f"{call.zeros:.1%} of its output is zero")
        if call.gradient is not None and not math.isfinite(call.gradient):
            flags.append("its gradient is not finite")
        elif asked and not call.gradient:
            flags.append("no gradient arrives")
        elif call.gradient and (flag := _apart("gradient", call.gradient, back, "the last")):
            flags.append(flag)
        yield replace(call, flags=tuple(flags))


def _apart(what: str, value: float, other: float, place: str) -> str:
    ratio = value / other
    if 1 / _APART <= ratio <= _APART or math.isnan(ratio):
        return ""
    word = "explodes" if ratio > 1 else "vanishes"
    return f"{what} {word}: {value:.2g}, {ratio:.1g} of {place}"
