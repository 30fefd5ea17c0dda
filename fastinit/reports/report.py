"""`report`: the values of a model and what it does to a signal, as data, tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fastinit.manifest.manifest import Manifest
from fastinit.manifest.read import load
from fastinit.plan.plan import Plan
from fastinit.reports.rows import MANY, as_json, grouped, span
from fastinit.reports.signal import LayerStats, signal
from fastinit.reports.values import TensorStats, measure, named_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


@dataclass(frozen=True)
class Report:
    """What `report` found.

    Attributes:
        tensors: the parameters and buffers in numbers.
        layers: the calls of a forward pass, in order; empty if no inputs were given.
    """

    tensors: tuple[TensorStats, ...]
    layers: tuple[LayerStats, ...] = ()

    @property
    def flags(self) -> dict[str, tuple[str, ...]]:
        """Return what is wrong or suspicious, by the names of tensors and layers."""
        flags = {tensor.name: tensor.flags for tensor in self.tensors if tensor.flags}
        return flags | {layer.name: layer.flags for layer in self.layers if layer.flags}

    def to_json(self) -> str:
        """Return all of it as JSON text; what is not finite is null."""
        return as_json(asdict(self))

    def table(self) -> Table:
        """Return a table for `rich.print`: a row for each tensor, or for those of equal layers."""
        from rich.table import Table  # here, so that importing fastinit stays fast

        shown = Table(box=None, pad_edge=False, header_style="bold")
        shown.add_column("tensor", overflow="fold", ratio=3)
        shown.add_column("shape", no_wrap=True)
        shown.add_column("mean", justify="right", no_wrap=True)
        shown.add_column("std", justify="right", no_wrap=True)
        shown.add_column("its rule's", justify="right", no_wrap=True)
        tensors, plain = self._told()
        if any(tensor.flags for tensor in tensors):
            shown.add_column("", overflow="fold", ratio=2)
        for label, group in grouped(tensors, lambda t: (t.shape, t.law, t.flags)):
            first = group[0]
            cells = [
                label,
                "x".join(map(str, first.shape)) or "scalar",
                f"{sum(t.mean for t in group) / len(group):.1g}",
                span([t.std for t in group]),
                "" if first.expected is None else f"{first.expected:.3g}",
                "; ".join(first.flags),
            ]
            shown.add_row(
                *cells[: len(shown.columns)],
                style="bold yellow" if first.flags else "",
            )
        if plain:
            values = " or ".join(f"{value:g}" for value in sorted({t.low for t in plain})[:4])
            shown.add_row(f"{len(plain)} others", "", values, "0", style="dim")
        return shown

    def _told(self) -> tuple[list[TensorStats], list[TensorStats]]:
        """Return the tensors that have a row, and, of many, those that are constants as asked."""
        if len(self.tensors) <= MANY:
            return list(self.tensors), []
        plain = [t for t in self.tensors if not t.counts and not t.flags]
        return [t for t in self.tensors if t.counts or t.flags], plain

    def signal_table(self) -> Table:
        """Return a table of the scale of activations and gradients, a row for each layer, or for
        those of equal blocks."""
        from rich.table import Table  # here, so that importing fastinit stays fast

        shown = Table(box=None, pad_edge=False, header_style="bold")
        shown.add_column("layer", overflow="fold", ratio=2)
        shown.add_column("activation", justify="right", no_wrap=True)
        shown.add_column("gradient", justify="right", no_wrap=True)
        if any(layer.flags for layer in self.layers):
            shown.add_column("", overflow="fold", ratio=2)
        for label, group in grouped(self.layers, lambda layer: (layer.kind, bool(layer.flags))):
            gradients = [layer.gradient for layer in group if layer.gradient is not None]
            flags = dict.fromkeys(flag for layer in group for flag in layer.flags)
            cells = [
                label or group[0].kind,
                span([layer.activation for layer in group]),
                span(gradients) if gradients else "none",
                "; ".join(list(flags)[:2]) + ("; ..." if len(flags) > 2 else ""),
            ]
            shown.add_row(
                *cells[: len(shown.columns)],
                style="bold yellow" if flags else "",
            )
        return shown

    def figure(self, *, dark: bool = False) -> Figure:
        """Return a picture: the histogram of each tensor, its standard deviation against its
        rule's, and activations and gradients through the depth.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from fastinit.reports.draw import draw_report

        return draw_report(self._told()[0] or self.tensors, self.layers, dark=dark)

    def summary(self) -> str:
        """Return a line of numbers, and one about the signal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        flagged = sum(bool(t.flags) for t in self.tensors)
        values = sum(t.elements for t in self.tensors)
        yield f"{len(self.tensors):,} tensors, {values:,} values: {flagged or 'none'} flagged"
        if self.layers:
            first, last = self.layers[0], self.layers[-1]
            yield (
                f"{len(self.layers):,} calls of layers: activation {first.activation:.2g} at "
                f"{first.name or first.kind}, {last.activation:.2g} at {last.name or last.kind}; "
                f"{sum(bool(layer.flags) for layer in self.layers) or 'none'} flagged"
            )


def report(
    model: nn.Module | Mapping[str, Tensor],
    inputs: Any = None,
    *,
    manifest: Plan | Manifest | str | Mapping[str, Any] | None = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> Report:
    """Look at the values of a model, and, with inputs, at what it does to a signal.

    Flagged are: values that are not finite, weights whose values are all equal (all zero, unless
    the manifest shows that they were asked to be), standard deviations other than their rule's by
    more than chance and 2 %, parameters that nothing wrote, and random tensors that are equal; of
    layers: outputs that are zero or not finite, activations and gradients 1000 times larger or
    smaller than where they come from, and gradients that do not arrive. The model stays as it was:
    its buffers, its gradients and torch's generators.

    Args:
        model: a module on any device, or a mapping from names to tensors (a state dict, a
            checkpoint); of a sharded one this rank's part.
        inputs: for a forward and a backward pass in the mode that the model is in: a tensor, a
            tuple or list of arguments, or a mapping of keywords.
        manifest: what the values were meant to be: a plan, its manifest or its JSON.
        loss: a function from the model's output to a scalar; by default the gradient of each output
            is of random signs.

    Raises:
        TypeError: `model` is neither, or inputs are given with a mapping.
        ValueError: a tensor on meta memory, an unknown output, a manifest of another version.
    """
    known = manifest.manifest() if isinstance(manifest, Plan) else manifest
    tensors = named_values(model)
    measured = measure(tensors, None if known is None else load(known))
    if inputs is None:
        return Report(measured)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"report: inputs need a module to run through, got {type(model).__name__}; load the "
            "weights into a model first"
        )
    return Report(measured, signal(model, inputs, loss))
