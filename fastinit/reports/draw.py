"""The pictures of reports. matplotlib is imported when one is asked for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastinit.reports.rows import grouped, span
from fastinit.reports.signal import LayerStats
from fastinit.reports.values import BINS, REACH, TensorStats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Colours(NamedTuple):
    """Blue and orange of Okabe and Ito ("Color universal design", 2008), which everybody tells
    apart; what is flagged has a shape of its own, too."""

    paper: str
    ink: str
    faint: str
    one: str
    other: str


_LIGHT = _Colours("#ffffff", "#1b1b1b", "#c4c8ce", "#0072b2", "#d55e00")
_DARK = _Colours("#16181c", "#e6e6e6", "#4a4e57", "#56b4e9", "#ffa54f")
_ROW = 0.21  # inches
_NARROW = 2.0  # the least ratio of the ends of an axis of standard deviations
_LONGEST = 46  # characters of a label


def draw_report(
    tensors: Sequence[TensorStats], layers: Sequence[LayerStats], *, dark: bool
) -> Figure:
    """Draw histograms, standard deviations, and the signal if there is one."""
    colours, rows = _colours(dark), grouped(tensors)
    below = 3.0 if layers else 0.0
    figure = _figure(colours, (10, 1.3 + _ROW * len(rows) + below))
    grid = figure.add_gridspec(
        2 if below else 1,
        2,
        width_ratios=(3, 2),
        height_ratios=(0.6 + _ROW * len(rows), below) if below else None,
    )
    _strips(_axes(figure, grid[0, 0], colours), rows, colours)
    _deviations(_axes(figure, grid[0, 1], colours), [row for _, row in rows], colours)
    if below:
        _depth(_axes(figure, grid[1, :], colours), layers, colours)
    return figure


def _strips(
    axes: Axes, rows: Sequence[tuple[str, Sequence[TensorStats]]], colours: _Colours
) -> None:
    """Draw a strip for each row: dark where many of its values are."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = []
    for _, row in rows:
        sums = [sum(counts) for counts in zip(*(t.counts for t in row if t.counts), strict=True)]
        most = max(sums, default=0)
        shades.append([n / most for n in sums] if most else [0.0] * BINS)
    axes.imshow(
        shades,
        aspect="auto",
        interpolation="nearest",
        extent=(-REACH, REACH, len(rows) - 0.5, -0.5),
        cmap=LinearSegmentedColormap.from_list("", [colours.paper, colours.one]),
        vmin=0,
        vmax=1,
    )
    for n, (_, row) in enumerate(rows):
        if not any(t.counts for t in row):
            values = sorted({t.low for t in row if not math.isnan(t.low)})
            told = f"all values are {span(values)}" if values else "no finite values"
            axes.text(0, n, told, ha="center", va="center", color=colours.ink, fontsize=7)
    axes.set_yticks(range(len(rows)), [_short(label) for label, _ in rows], fontsize=8)
    axes.set_yticks([n + 0.5 for n in range(len(rows) - 1)], minor=True)
    axes.grid(False)
    axes.grid(axis="y", which="minor", color=colours.paper, linewidth=2)
    axes.tick_params(axis="y", which="both", length=0)
    _labels(axes, colours, "values, in standard deviations from the mean")


def _deviations(axes: Axes, rows: Sequence[Sequence[TensorStats]], colours: _Colours) -> None:
    """Draw measured standard deviations as dots, those of the rules as bars."""
    sound: list[tuple[float, int]] = []
    flagged: list[tuple[float, int]] = []
    asked: list[tuple[float, int]] = []
    equal: list[int] = []
    for n, row in enumerate(rows):
        for each in row:
            if each.expected:
                asked.append((each.expected, n))
            if each.std > 0:
                (flagged if each.flags else sound).append((each.std, n))
            elif each.flags:
                equal.append(n)
    for points, marker, size, colour, label in (
        (asked, "|", 160, colours.ink, "its rule's"),
        (sound, "o", 16, colours.one, "measured"),
        (flagged, "X", 36, colours.other, "flagged"),
    ):
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=size, marker=marker, color=colour, label=label)
    if sound or flagged or asked:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        if high < _NARROW * low:  # so that the chance of a few draws does not look like an error
            middle = math.sqrt(low * high)
            axes.set_xlim(middle / math.sqrt(_NARROW), middle * math.sqrt(_NARROW))
        _plain_numbers(axes, "x")
    if equal:  # which a logarithmic axis has no place for
        edge: dict[str, Any] = {
            "transform": axes.get_yaxis_transform(),
            "label": "" if flagged else "flagged",
        }
        axes.plot([0.02] * len(equal), equal, "X", color=colours.other, clip_on=False, **edge)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=colours.ink, fontsize=8, **_above(3))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    _labels(axes, colours, "standard deviation")


def _depth(axes: Axes, layers: Sequence[LayerStats], colours: _Colours) -> None:
    """Draw activations and gradients through the depth; the line is that of the blocks of lists, if
    there are some."""
    blocks = [n for n, layer in enumerate(layers) if layer.is_block]
    line = blocks if len(blocks) > 2 else range(len(layers))
    values: Sequence[tuple[str, str, str, Callable[[LayerStats], float | None]]] = (
        ("activation", "o", colours.one, lambda layer: layer.activation),
        ("gradient", "s", colours.other, lambda layer: layer.gradient),
    )
    for label, marker, colour, value in values:
        seen = [value(layer) or math.nan for layer in layers]
        axes.plot(line, [seen[n] for n in line], color=colour, linewidth=1.3)
        axes.plot(range(len(layers)), seen, marker, color=colour, markersize=3, alpha=0.7)
        axes.plot([], [], marker, color=colour, linestyle="-", markersize=4, label=label)
    flagged = [n for n, layer in enumerate(layers) if layer.flags]
    if flagged:
        heights = [0.02] * len(flagged)
        foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "label": "flagged"}
        axes.plot(flagged, heights, "X", color=colours.ink, markersize=5, **foot)
    axes.set_yscale("log")
    _plain_numbers(axes, "y")
    axes.set_xlim(-0.5, len(layers) - 0.5)
    _labels(axes, colours, "calls of layers, from the input to the output", "root mean square")
    axes.legend(frameon=False, labelcolor=colours.ink, fontsize=8, **_above(3))


def draw_changes(rows: Sequence[tuple[str, Sequence[float]]], *, dark: bool) -> Figure:
    """Draw how far the tensors of each row have moved, in parts of their norm."""
    colours = _colours(dark)
    figure = _figure(colours, (8, 1.3 + _ROW * len(rows)))
    axes = _axes(figure, 111, colours)
    moved = [
        (change, n) for n, (_, row) in enumerate(rows) for change in row if 0 < change < math.inf
    ]
    if moved:
        x, y = zip(*moved, strict=True)
        axes.scatter(x, y, s=16, color=colours.one, label="moved")
        axes.set_xscale("log")
        _plain_numbers(axes, "x")
    still = [n for n, (_, row) in enumerate(rows) if 0 in row]
    if still:
        axes.plot(
            [0.02] * len(still),
            still,
            "X",
            color=colours.other,
            transform=axes.get_yaxis_transform(),
            label="has not moved",
        )
    axes.set_yticks(range(len(rows)), [_short(label) for label, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _labels(axes, colours, "norm of the difference over the norm before")
    axes.legend(frameon=False, labelcolor=colours.ink, fontsize=8, **_above(2))
    return figure


def draw_coordinates(
    widths: Sequence[int],
    layers: Sequence[str],
    sizes: Mapping[str, Sequence[Sequence[float]]],
    growing: Sequence[str],
    *,
    dark: bool,
) -> Figure:
    """Draw activations over widths, a line for each layer.

    Args:
        widths, layers: as in `Coordinates`.
        sizes: two panels by their titles, each with the sizes of all layers at each width.
        growing: the layers that are named in the last panel.
    """
    from matplotlib import colormaps

    colours = _colours(dark)
    figure = _figure(colours, (10, 4.2))
    shades = colormaps["cividis"]
    first: Axes | None = None
    for place, (title, by_width) in enumerate(sizes.items()):
        axes = _axes(figure, 121 + place, colours, sharey=first)
        first = first or axes
        for n, name in enumerate(layers):
            line = [of_width[n] or math.nan for of_width in by_width]
            part = n / max(len(layers) - 1, 1)
            colour = shades(0.35 + 0.65 * part if dark else 0.85 * part)
            axes.plot(widths, line, color=colour, marker="o", markersize=3, linewidth=1.1)
            if name in growing and place:
                axes.plot(widths, line, "X", color=colours.other, markersize=7, label=_short(name))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.minorticks_off()
        axes.set_title(title, fontsize=10, color=colours.ink)
        of_y = "mean of |activation|" if place == 0 else ""
        _labels(axes, colours, "width; from dark to bright: first layer to last", of_y)
        axes.tick_params(labelleft=place == 0)
        if place and growing:
            axes.legend(
                title="grow with the width",
                title_fontsize=8,
                fontsize=7,
                frameon=False,
                labelcolor=colours.ink,
                loc="center left",
                bbox_to_anchor=(1, 0.5),
            ).get_title().set_color(colours.ink)
    if first is not None:
        _plain_numbers(first, "y")
    return figure


class Curve(NamedTuple):
    """How many times as fast one kind of fill is, over its size: of each size all rounds."""

    fill: str
    dtype: str
    ratios: Sequence[tuple[int, Sequence[float]]]


def draw_ratios(curves: Sequence[Curve], *, dark: bool) -> Figure:
    """Draw medians, and from the least to the greatest round; a colour for each dtype, a marker for
    each fill."""
    colours = _colours(dark)
    figure = _figure(colours, (8, 4))
    axes = _axes(figure, 111, colours)
    markers = dict(zip(dict.fromkeys(c.fill for c in curves), "os^Dv", strict=False))
    tones = dict(
        zip(dict.fromkeys(c.dtype for c in curves), (colours.one, colours.other), strict=False)
    )
    for curve in curves:
        x = [size for size, _ in curve.ratios]
        y = [statistics.median(ratios) for _, ratios in curve.ratios]
        below = [m - min(ratios) for m, (_, ratios) in zip(y, curve.ratios, strict=True)]
        above = [max(ratios) - m for m, (_, ratios) in zip(y, curve.ratios, strict=True)]
        axes.errorbar(
            x,
            y,
            yerr=(below, above),
            color=tones[curve.dtype],
            marker=markers[curve.fill],
            linestyle="-" if curve.dtype == curves[0].dtype else "--",
            capsize=2,
            label=f"{curve.fill}, {curve.dtype}",
        )
    axes.axhline(1, color=colours.ink, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _plain_numbers(axes, "y")
    _labels(axes, colours, "elements", "times as fast as torch.nn.init")
    axes.legend(
        fontsize=8,
        frameon=False,
        labelcolor=colours.ink,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    return figure


def _figure(colours: _Colours, size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'a picture needs matplotlib: pip install "fastinit[plot]", or matplotlib itself'
        ) from error
    return Figure(figsize=size, layout="constrained", facecolor=colours.paper)


def _axes(figure: Figure, place: Any, colours: _Colours, **shared: Axes | None) -> Axes:
    """Return new axes in the colours of the picture."""
    axes: Axes = figure.add_subplot(place, **shared)
    axes.set_facecolor(colours.paper)
    for side, spine in axes.spines.items():
        spine.set_color(colours.faint)
        spine.set_visible(side in ("left", "bottom"))
    axes.tick_params(which="both", colors=colours.ink, labelsize=8)
    axes.grid(color=colours.faint, linewidth=0.5)
    axes.set_axisbelow(True)
    return axes


def _labels(axes: Axes, colours: _Colours, x: str = "", y: str = "") -> None:
    axes.set_xlabel(x, color=colours.ink, fontsize=9)
    axes.set_ylabel(y, color=colours.ink, fontsize=9)


def _colours(dark: bool) -> _Colours:
    return _DARK if dark else _LIGHT


def _above(columns: int) -> dict[str, Any]:
    """Return where a legend stands above its axes."""
    return {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": columns, "borderpad": 0}


def _plain_numbers(axes: Axes, which: str) -> None:
    """Write a handful of 0.02 and 1e-05 on a logarithmic axis, whatever it spans."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [factor * 10.0**n for n in decades for factor in factors]
        for factors in ((1,), (1, 3), (1, 2, 5))
    ]
    choices.append(list(MaxNLocator(4).tick_values(low, high)))
    within = [[value for value in ticks if low <= value <= high] for ticks in choices]
    ticks = next((ticks for ticks in within if len(ticks) > 2), within[-1])
    axis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 7)]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _short(label: str) -> str:
    """Return a label that fits, its end in any case."""
    return label if len(label) <= _LONGEST else "..." + label[3 - _LONGEST :]
