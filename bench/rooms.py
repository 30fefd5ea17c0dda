"""The way of a call through the rooms of fastinit: which files it enters, in which order.

    python -m bench.rooms [CALL ...]    init_weights, build, init.normal_; by default all three

A call is profiled. Files are listed in the order in which they are first entered, which is that in
which a reader opens them. A room (a folder of fastinit/) calls rooms on floors below its own
(pyproject.toml) and comes back by returning; a call upwards, into a room that had been left, is a
surprise to a reader, and listed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

import fastinit

PACKAGE = Path(fastinit.__file__).parent


class Way(NamedTuple):
    """Files in the order of their first entry, and calls upwards: (room, function) to the same."""

    files: list[str]
    upwards: list[str]

    @property
    def rooms(self) -> list[str]:
        """Rooms in the order of the files."""
        return [room for room, _ in groupby(map(room_of, self.files))]


def floors() -> dict[str, int]:
    """The floor of each room, by the layers of pyproject.toml, the ground being 0."""
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    layers = re.search(r"^layers = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert layers is not None
    rows = re.findall(r'"(.*)"', layers[1])
    return {room: n for n, row in enumerate(reversed(rows)) for room in row.split(" | ")}


def room_of(file: str) -> str:
    """The folder that a file of the package is in, or the file itself where it is in none."""
    return file.split("/")[0] if "/" in file else file.removesuffix(".py")


def way_of(call: Callable[[], Any]) -> Way:
    """The way of a call."""
    floor = floors()
    files: dict[str, None] = {}
    upwards: dict[str, None] = {}

    def file_of(frame: FrameType) -> str | None:
        path = Path(frame.f_code.co_filename)
        return str(path.relative_to(PACKAGE)) if PACKAGE in path.parents else None

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        file = file_of(frame) if event == "call" else None
        if file is None:
            return
        files.setdefault(file)
        caller = frame.f_back
        while caller is not None and (below := file_of(caller)) is None:
            caller = caller.f_back
        if caller is not None and below is not None:
            here, there = room_of(below), room_of(file)
            if floor.get(there, 0) > floor.get(here, 0):
                names = f"{here} {caller.f_code.co_name} > {there} {frame.f_code.co_name}"
                upwards.setdefault(names)

    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return Way(list(files), list(upwards))


def model() -> nn.Module:
    """Layers with rules of several kinds, at two depths."""
    return fastinit.Sequential(
        nn.Conv2d(3, 8, 3),
        fastinit.Sequential(
            nn.Linear(8, 8), nn.BatchNorm1d(8), init_cfg=dict(type="Normal", layer="Linear")
        ),
        init_cfg=[
            dict(type="Kaiming", layer="Conv2d"),
            dict(type="Constant", val=1, layer="BatchNorm1d"),
        ],
    )


def calls() -> dict[str, Callable[[], Any]]:
    """What can be looked at."""
    layers, weight = model(), torch.empty(8, 8)
    return {
        "init_weights": layers.init_weights,  # type: ignore[dict-item]
        "build": lambda: fastinit.build(lambda: nn.Linear(8, 8), seed=0),
        "init.normal_": lambda: fastinit.init.normal_(weight),
    }


def main() -> None:
    """Print the way of each call."""
    for name in sys.argv[1:] or list(calls()):
        way = way_of(calls()[name])
        again = len(way.rooms) - len(set(way.rooms))
        print(f"{name}: {len(way.files)} files in {len(set(way.rooms))} rooms")
        print(f"  files: {' '.join(way.files)}")
        print(f"  rooms: {' > '.join(way.rooms)} ({again} times one that was entered before)")
        print(f"  calls upwards: {'; '.join(way.upwards) or 'none'}")


if __name__ == "__main__":
    main()
