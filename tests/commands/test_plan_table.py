"""The table of `fastinit plan`: it fits, and shortens nothing that one cannot do without."""

from __future__ import annotations

import re

import pytest
from rich.console import Console
from torch import nn

import fastinit
from fastinit.commands.plan import table
from fastinit.manifest.manifest import Manifest


def layer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16)


class Deep(nn.Module):
    """Names of many parts, torch's own resets with long names, and a law in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({"position_embeddings": nn.Embedding(30522, 8, 0)})
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(layer(), layer())})
        nn.init.trunc_normal_(self.embeddings["position_embeddings"].weight, std=0.02)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    with fastinit.fused(seed=0) as plan:
        fastinit.build(Deep)
    return plan.manifest()


def lines(manifest: Manifest, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table(manifest, width))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_nothing_is_cut_off(manifest: Manifest, width: int) -> None:
    shown = lines(manifest, width)
    assert max(map(len, shown)) <= width
    text = "".join(line.partition(" ")[0] for line in shown)
    assert all(tensor.name in text for tensor in manifest.tensors)
    assert sum(bool(re.search(r" normalization:\d+$", line)) for line in shown) == 8
    assert not any("reset_parameters" in line for line in shown)


def test_long_names_end_behind_a_dot(manifest: Manifest) -> None:
    starts = [line.partition(" ")[0] for line in lines(manifest, 80)]
    assert starts[1:3] == ["embeddings.position_embeddings.", "weight"]
    assert "encoder.layers.0.norm1.weight" in starts


def test_where_there_is_room_a_parameter_has_one_line(manifest: Manifest) -> None:
    assert len(lines(manifest, 200)) == len(manifest.tensors) + 1


def test_what_is_written_twice_stands_out(manifest: Manifest) -> None:
    written = {tensor.name: tensor.writes for tensor in manifest.tensors}
    for line in lines(manifest, 200)[1:]:
        name = line.partition(" ")[0]
        assert (f" {written[name]}x " in line) == (written[name] > 1)
    assert max(written.values()) > 1
