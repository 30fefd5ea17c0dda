"""Pictures and tables of comparisons and of coordinate checks: they show the numbers found."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import fastinit
from fastinit.commands.report import as_page
from fastinit.reports.compare import Comparison
from fastinit.reports.signal import signal
from fastinit.reports.widths import Coordinates, _slope


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def compared() -> Comparison:
    a = {"w": torch.ones(4), "still": torch.ones(4), "gone": torch.ones(2), "shape": torch.ones(3)}
    b = {"w": torch.full((4,), 1.5), "still": torch.ones(4), "shape": torch.ones(1, 3)}
    return fastinit.compare(a, b)


def checked(std: float) -> Coordinates:
    def make(width: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, width), nn.Linear(width, 4))
        nn.init.normal_(model[1].weight, std=std)
        return model

    return fastinit.coordinate_check(make, (16, 64, 256), torch.randn(8, 8), steps=1)


@pytest.mark.parametrize("dark", [False, True])
def test_changes_are_drawn_where_they_are(dark: bool) -> None:
    figure = compared().figure(dark=dark)
    (axes,) = figure.axes
    assert axes.collections[0].get_offsets().tolist() == [[0.5, 0.0]]
    assert [list(line.get_ydata()) for line in axes.lines] == [[1]], "what is equal has a mark"
    figure.canvas.draw()


@pytest.mark.parametrize("dark", [False, True])
def test_activations_are_drawn_over_widths(dark: bool) -> None:
    found = checked(std=1.0)
    figure = found.figure(dark=dark)
    start, end = figure.axes
    for axes, sizes in ((start, found.sizes[0]), (end, found.sizes[-1])):
        drawn = [list(line.get_ydata()) for line in axes.lines[:1]]
        assert drawn == [[of_width[0] for of_width in sizes]]
    assert found.growing
    assert len(end.lines) == len(found.layers) + len(found.growing), "crosses on those that grow"
    figure.canvas.draw()


def test_tables_and_pages_tell_what_is_not_in_both() -> None:
    found = compared()
    names, changes = (list(found.table().columns[n].cells) for n in (0, 1))
    told = dict(zip(names, changes, strict=True))
    assert (told["gone"], told["shape"]) == ("in the first alone", "another shape")
    assert "cosine" in as_page(found, "two")
    assert "exponent after training" in as_page(checked(0.01), "widths")


def test_slopes_of_what_has_no_logarithm() -> None:
    assert _slope([1, 2, 4], [1, 2, 4]) == pytest.approx(1)
    assert _slope([1, 2], [1, math.nan]) == math.inf
    assert _slope([1, 2], [0, 1]) == 0


def test_outputs_that_are_not_finite_are_flagged() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.fill_(math.inf)
    layers = signal(model, torch.ones(2, 4), None)
    assert all("its output is not finite" in layer.flags for layer in layers)
    with pytest.raises(ValueError, match=r"called no module of the model that returns a tensor"):
        signal(Idle(), torch.ones(1), lambda output: output)


@pytest.mark.parametrize("are_all", [False, True])
def test_flagged_tensors_without_a_spread_are_at_the_edge(are_all: bool) -> None:
    model = nn.Sequential(nn.Linear(30, 40, bias=False), nn.Linear(40, 20, bias=False))
    nn.init.ones_(model[1].weight)
    if are_all:
        nn.init.zeros_(model[0].weight)
    found = fastinit.report(model)
    figure = found.figure()
    figure.canvas.draw()
    marks = [line for axes in figure.axes for line in axes.lines if line.get_label() == "flagged"]
    assert [list(line.get_ydata()) for line in marks] == [[0, 1] if are_all else [1]]
    assert len(found.flags) == 1 + are_all


def test_many_constants_share_a_row() -> None:
    model = nn.ModuleDict({f"norm_{n}x": nn.LayerNorm(2) for n in "abcdefghijklmnopqrstuvwxyz"})
    for n in range(15):
        model[f"linear{n}"] = nn.Linear(3, 3)
    found = fastinit.report(model)
    last = [list(column.cells)[-1] for column in found.table().columns]
    assert last[0] == "52 others"
    assert last[2] == "0 or 1"
