"""Tensors whose memory is not what it seems: inside `fused` all is as it is eagerly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastinit
from fastinit import fused, init


def many_dimensions() -> Tensor:
    base = torch.zeros(1024)
    view = base.view(2, 2, 2, 2, 2, 2, 2, 2, 4)[..., ::2]
    flat = base[:512]
    flat.fill_(1)
    view.mul_(3)
    nn.init.ones_(view[:, :1])
    flat.add_(1)
    return base


def other_memory() -> list[Any]:
    base, x = torch.zeros(8), torch.empty(8)
    x.fill_(0.5)
    view = x.view(-1)
    x.set_(base)
    x.fill_(3)
    y = base.clone()
    return [x, y, base, view, view.tolist()]


def a_storage_that_is_held() -> Tensor:
    x = torch.zeros(4)
    storage = x.untyped_storage()
    x.fill_(7.0)
    del x
    return torch.empty(0).set_(storage)


def functional_gradients() -> Tensor:
    def inner(w: Tensor) -> Tensor:
        t = torch.empty(3)
        t.fill_(2.0)
        return (t * w).sum()

    return torch.func.grad(inner)(torch.ones(3))


def inference() -> Tensor:
    with torch.inference_mode():
        t = torch.empty(4)
        t.fill_(2.0)
        t.mul_(3)
    return t


def made_into_what_waits() -> list[Tensor]:
    found = []
    for make in (torch.zeros, torch.ones, torch.empty):  # the last writes nothing
        x = torch.empty(3).fill_(2.0)
        assert make(3, out=x) is x
        found.append(x.add_(1))
    found.append(torch.full((3,), 4.0, out=torch.empty(3).fill_(2.0)))
    return found


def negative_views() -> list[Tensor]:
    c = torch.zeros(4, dtype=torch.complex64)
    a, b = c.imag, c.conj().imag
    a.fill_(1)
    b.add_(1)
    a.mul_(2)
    d = torch.zeros(4, dtype=torch.complex64)
    dense = d.conj().imag.as_strided((4,), (1,))
    dense.fill_(1)
    negative = torch._neg_view(torch.zeros(5))
    negative.fill_(1)
    nn.init.ones_(negative)
    return [c, d, dense, negative]


@pytest.mark.parametrize(
    "program",
    [
        many_dimensions,
        other_memory,
        a_storage_that_is_held,
        functional_gradients,
        inference,
        made_into_what_waits,
        negative_views,
    ],
)
def test_programs(program: Callable[[], Any]) -> None:
    outcomes = []
    for context in (nullcontext(), fused(seed=1)):
        with context:
            outcome = program()
        outcomes.append(str(outcome))
    assert outcomes[0] == outcomes[1]


WRITES: list[Callable[[Tensor], object]] = [
    lambda w: w.__setitem__(0, 5.0),
    lambda w: w.__iadd__(torch.ones(3)),
    lambda w: torch.add(w, 1, out=w),
    lambda w: nn.functional.relu(w, inplace=True),
    lambda w: nn.functional.relu(w, True),
    lambda w: torch.ops.aten.relu_(w),
    lambda w: torch.ops.aten.relu_.default(w),
    lambda w: w.exponential_(),
]
READS: list[Callable[[Tensor], object]] = [
    lambda w: ~(w > 0),
    lambda w: [int(w[0]), float(w[0]), bool(w[0])],
    lambda w: nn.functional.relu(w),
    lambda w: torch.ops.aten.relu.default(w),
]


@pytest.mark.parametrize("is_inference", [True, False])
def test_a_manifest_knows_who_wrote_without_versions(is_inference: bool) -> None:
    """In inference mode torch does not count the writes of a tensor."""
    for act in (*WRITES, *READS):
        with torch.inference_mode(is_inference), torch.no_grad():
            w = nn.ParameterList([torch.empty(3)])
            with fused(root=w) as plan:
                init.normal_(w[0])
                act(w[0])
        answer = fastinit.verify(w, plan.to_json())
        assert answer == {"0": None if act in WRITES else True}, act


def test_single_fills_of_views() -> None:
    base = torch.zeros(1024)
    init.ones_(base.view(2, 2, 2, 2, 2, 2, 2, 2, 4)[..., ::2])
    assert base.sum() == 512
    negative = torch._neg_view(torch.zeros(5))
    init.ones_(negative)
    assert negative.tolist() == [1.0] * 5


@pytest.mark.parametrize("waits", [lambda x: x.mul_(2.0), lambda x: x.clone()])
def test_memory_that_is_gone_is_an_error(waits: Callable[[Tensor], Tensor]) -> None:
    x, other = torch.empty(1000), torch.empty(3)
    storage = x.untyped_storage()
    kept = []

    def program() -> None:
        init.ones_(other)
        x.fill_(1.0)
        kept.append(waits(x))
        storage.resize_(0)

    with pytest.raises(RuntimeError, match="lost its memory"), fused():
        program()
    assert (other == 1.0).all()


def test_two_storages_over_one_memory() -> None:
    array = np.zeros(4, np.float32)

    class Net(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.from_numpy(array))
            self.q = nn.Parameter(torch.from_numpy(array))

        def init_weights(self) -> None:
            with torch.no_grad():
                self.p.fill_(1)
                self.p.mul_(10)
                self.q.fill_(2)
                self.p[:2].fill_(5)
                self.p[1:3].fill_(3)
                self.q[3:].fill_(4)

    Net().init_weights()
    assert array.tolist() == [5.0, 3.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "chain",
    [
        lambda x: x.uniform_(-1e-7, 1e-7).erfinv_().mul_(1e6).clamp_(-0.9, 0.9),
        lambda x: x.uniform_(1 - 1e-7, 1).erfinv_().mul_(2**0.5).clamp_(5.0, 8.0),
    ],
)
def test_a_window_that_is_not_the_drawn_one_is_no_truncated_normal(
    chain: Callable[[Tensor], Tensor],
) -> None:
    with fused(seed=1) as plan:
        x = chain(torch.empty(100, dtype=torch.float64))
    [entry] = plan.manifest().tensors
    assert entry.fills[0].rule == "uniform"
    assert x.isfinite().all()
