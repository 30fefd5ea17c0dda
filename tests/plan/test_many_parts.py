"""Storages of which many parts are written, or have names: the recorder looks them up by place."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastinit import BaseModule, fused, init


def windows(count: int) -> list[tuple[int, int]]:
    """Windows (start, length) of a vector, many of them twice, always the same."""
    draw = random.Random(7).randrange
    once = [(draw(200), 1 + draw(30)) for _ in range(count)]
    return once + once[::3] + once[::7][::-1]


def fill(whole: Tensor) -> Tensor:
    for value, (start, length) in enumerate(windows(60)):
        init.constant_(whole[start : start + length], value)
    return whole


def test_many_windows_are_written_in_their_order() -> None:
    expected = fill(torch.zeros(240))
    with fused():
        waited = fill(torch.zeros(240))
    assert torch.equal(waited, expected)


def test_a_fill_of_a_part_again_replaces_the_first_however_many_wait() -> None:
    with fused(seed=1) as plan:
        whole = torch.empty(40, 3)
        for n in [*range(40)] * 3:
            init.normal_(whole[n])
        names = [entry.name for entry in plan.manifest().tensors]
    assert len(names) == 40, "each row is drawn once, by its last fill"
    with fused(seed=1):
        once = torch.empty(40, 3)
        for n in range(40):
            init.normal_(once[n])
    assert torch.equal(whole, once)


@pytest.mark.parametrize("count", [3, 40])
def test_parts_of_one_storage_draw_as_parameters_of_their_own(count: int) -> None:
    """Streams are names: where the memory lies does not matter."""
    values = []
    for memory in (torch.zeros(count, 6).unbind(), [torch.zeros(6) for _ in range(count)]):
        model = nn.ParameterList(memory)
        with fused(seed=3) as plan:
            plan.add_root(model)
            for parameter in reversed(model):
                init.normal_(parameter)
            init.zeros_(model[1][2:4])
        values.append(torch.stack([p.detach() for p in model]))
    assert torch.equal(*values)


@pytest.mark.parametrize("others", [0, 40])
def test_a_part_draws_from_the_first_name_around_it(others: int) -> None:
    """A tensor in several named ones is part of the one that was named first."""
    flat = torch.zeros(12 + 2 * others)
    parts = [flat[12 + 2 * n : 14 + 2 * n] for n in range(others)]
    values = []
    for tensors in ([flat[:12], flat[4:8]], [flat[:12]]):
        model = nn.ParameterList([*tensors, *parts])
        with fused(seed=3) as plan:
            plan.add_root(model)
            init.normal_(flat[4:8])
        values.append(flat[4:8].clone())
    assert torch.equal(*values)


def ends(one: Tensor, two: Tensor) -> None:
    one.fill_(1)
    two.fill_(3)
    one.mul_(2)


def reads(one: Tensor, two: Tensor) -> None:
    two.fill_(3)
    assert one.tolist() == [3.0] * 4
    one.fill_(4)
    one[:2] = two[2:] + 1


@pytest.mark.parametrize(("writes", "expected"), [(ends, [6, 6, 6, 6]), (reads, [5, 5, 4, 4])])
def test_memory_of_others_that_overlaps_keeps_the_order_of_its_writes(
    writes: Callable[[Tensor, Tensor], None], expected: list[float]
) -> None:
    """Two storages over one NumPy array."""

    class Twice(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            array = np.zeros(4, np.float32)
            self.one, self.two = (nn.Parameter(torch.from_numpy(array)) for _ in range(2))

        @torch.no_grad()
        def init_weights(self) -> None:
            writes(self.one, self.two)

    model = Twice()
    model.init_weights()
    assert model.one.tolist() == expected


class Leaf(BaseModule):
    def __init__(self) -> None:
        super().__init__(init_cfg={"type": "Constant", "layer": "Linear", "val": 1})
        self.linear = nn.Linear(2, 2)


class Branch(BaseModule):
    def __init__(self, grows: bool) -> None:
        super().__init__()
        self.leaf = Leaf()
        self.grows = grows

    def init_weights(self) -> None:
        super().init_weights()
        if self.grows:
            self.leaf.late = nn.Parameter(torch.zeros(2))


class Tree(BaseModule):
    def __init__(self, grows: bool) -> None:
        super().__init__()
        self.branch = Branch(grows)


def test_a_parameter_that_appears_in_what_was_already_looked_at() -> None:
    Tree(False).init_weights()
    with pytest.raises(AssertionError, match=r"`leaf\.late` of `Branch` was added or replaced"):
        Tree(True).init_weights()


def test_mmengine_refuses_it_too() -> None:
    model = pytest.importorskip("mmengine.model")

    class TheirBranch(model.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.leaf = model.BaseModule()

        def init_weights(self) -> None:
            super().init_weights()
            self.leaf.late = nn.Parameter(torch.zeros(2))

    class TheirTree(model.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.branch = TheirBranch()

    with pytest.raises(AssertionError, match=r"named `leaf\.late`"):
        TheirTree().init_weights()
