"""The coordinate check of muP: how activations go with the width of a model, and with training.

In the maximal update parametrisation no activation grows with the width, at the start or after any
number of steps (Yang et al., "Tensor programs V", 2022, appendix D.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastinit.reports.rows import as_json
from fastinit.reports.signal import kept, outputs_of, run, watched

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_GROWS = 0.25  # an exponent of the width that is more than noise


@dataclass(frozen=True)
class Coordinates:
    """Mean absolute activations of the layers of a model, by width and step.

    Attributes:
        widths: the widths, ascending.
        layers: names of modules, in the order of their calls.
        sizes: `sizes[step][width][layer]`, step 0 before training.
    """

    widths: tuple[int, ...]
    layers: tuple[str, ...]
    sizes: tuple[tuple[tuple[float, ...], ...], ...]

    def exponents(self, step: int = -1) -> dict[str, float]:
        """Return for each layer the exponent p of the width^p that its activation follows, by least
        squares in the logarithm; infinite for one that is not finite, 0 for one that is zero."""
        return {
            name: _slope(self.widths, [sizes[n] for sizes in self.sizes[step]])
            for n, name in enumerate(self.layers)
        }

    @property
    def growing(self) -> tuple[str, ...]:
        """Return the layers whose activation grows with the width after the last step."""
        return tuple(name for name, p in self.exponents().items() if p > _GROWS)

    def table(self) -> Table:
        """Return a table for `rich.print`: a row for each layer, with its exponents."""
        from rich.table import Table  # here, so that importing fastinit stays fast

        shown = Table(box=None, pad_edge=False, header_style="bold")
        last = len(self.sizes) - 1
        shown.add_column("layer", overflow="fold")
        for title in ("at the start", f"after {last} steps", f"at width {self.widths[-1]}"):
            shown.add_column(title, justify="right")
        start, end = self.exponents(0), self.exponents()
        for n, name in enumerate(self.layers):
            shown.add_row(
                name,
                f"width^{start[name]:+.2f}",
                f"width^{end[name]:+.2f}",
                f"{self.sizes[-1][-1][n]:.3g}",
                style="bold yellow" if end[name] > _GROWS else "",
            )
        return shown

    def to_json(self) -> str:
        """Return all of it as JSON text; what is not finite is null."""
        return as_json(asdict(self))

    def summary(self) -> str:
        """Return a line of numbers."""
        told = f"grow with the width: {', '.join(self.growing)}" if self.growing else "none grows"
        return f"{len(self.layers)} layers at widths {', '.join(map(str, self.widths))}: {told}"

    def figure(self, *, dark: bool = False) -> Figure:
        """Return a picture: activation over width, both logarithmic, before and after training.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from fastinit.reports.draw import draw_coordinates

        last = len(self.sizes) - 1
        sizes = {"at the start": self.sizes[0], f"after {last} steps": self.sizes[-1]}
        return draw_coordinates(self.widths, self.layers, sizes, self.growing, dark=dark)


def coordinate_check(
    make: Callable[[int], nn.Module],
    widths: Sequence[int],
    inputs: Any,
    *,
    steps: int = 3,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> Coordinates:
    """Train a model a few steps at several widths, and return the size of its activations.

    Args:
        make: makes the model of a width, initialised, on any device.
        widths: at least two, positive.
        inputs: one batch for all widths: a tensor, a tuple of arguments or a mapping of keywords.
        steps: of training, on that batch.
        optimizer: makes an optimizer for a model, by which the learning rates may follow the width
            as muP wants them; by default Adam at 1e-3 for all parameters, which they do not follow.
        loss: a function from the model's output to a scalar; by default the mean square of its
            distance to fixed random targets.

    Raises:
        ValueError: fewer than two widths, a width below 1, no or negative steps, or models whose
            modules are called in another order.
    """
    if len(set(widths)) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be two or more positive numbers, got {list(widths)}")
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    ordered = tuple(sorted(set(widths)))
    names: tuple[str, ...] | None = None
    by_width = []
    for width in ordered:
        called, sizes = _trained(make(width), inputs, steps, optimizer or _adam, loss)
        if names not in (None, called):
            raise ValueError(
                f"the model of width {width} calls {len(called)} modules in another order than "
                f"that of width {ordered[0]}; widths must not change the depth"
            )
        names = called
        by_width.append(sizes)
    return Coordinates(ordered, names or (), tuple(zip(*by_width, strict=True)))


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def _trained(
    model: nn.Module,
    inputs: Any,
    steps: int,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    loss: Callable[[Any], Tensor] | None,
) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    sizes: list[list[tuple[str, float]]] = []

    def see(name: str, _: nn.Module, output: Tensor) -> None:
        sizes[-1].append((name, float(output.detach().double().abs().mean())))

    with kept(model), torch.enable_grad(), watched(model, see):
        trained = optimizer(model)
        for step in range(steps + 1):
            sizes.append([])
            output = run(model, inputs)
            if step < steps:
                trained.zero_grad()
                (loss or _distance)(output).backward()  # type: ignore[no-untyped-call]
                trained.step()
    names = tuple(name for name, _ in sizes[0])
    return names, [tuple(size for _, size in seen) for seen in sizes]


def _distance(output: Any) -> Tensor:
    ends = outputs_of(output)
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randn(end.shape, generator=generator).to(end) for end in ends]
    return torch.stack(
        [(end - target).square().mean() for end, target in zip(ends, targets, strict=True)]
    ).sum()


def _slope(widths: Sequence[int], sizes: Sequence[float]) -> float:
    if not all(map(math.isfinite, sizes)):
        return math.inf
    if min(sizes) <= 0:
        return 0.0
    x, y = [math.log(width) for width in widths], [math.log(size) for size in sizes]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - middle_x) ** 2 for a in x)
