"""Orthogonal matrices: what they are, and that every route gives the same ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.init import orthogonal_ as imported_early

import fastinit
from fastinit import build, fan_groups, fused, init

TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def require_orthogonal(tensor: torch.Tensor, gain: float, tolerance: float) -> None:
    matrix = tensor.detach().double().flatten(1) / gain
    product = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(
        product, torch.eye(len(product), dtype=torch.float64), atol=tolerance, rtol=0
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (9, 9), (4, 3, 2, 2), (1, 5)], ids=str)
@pytest.mark.parametrize("is_in_plan", [False, True])
def test_it_is_orthogonal(shape: tuple[int, ...], dtype: torch.dtype, is_in_plan: bool) -> None:
    tensor = torch.empty(shape, dtype=dtype)
    if is_in_plan:
        with fused():
            nn.init.orthogonal_(tensor, 1.5)
    else:
        init.orthogonal_(tensor, 1.5)
    require_orthogonal(tensor, 1.5, TOLERANCE[dtype])


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("way", [torch.clone, torch.Tensor.double, torch.Tensor.float])
def test_after_a_copy_of_what_was_filled_before(
    way: Callable[[torch.Tensor], torch.Tensor], is_read: bool
) -> None:
    tensor, other = torch.empty(9, 5), torch.empty(9, 5)
    with fused(seed=1):
        found = way(nn.init.uniform_(tensor))
        other.copy_(tensor)
        if is_read:
            found.sum().item()
            other.sum().item()
        nn.init.orthogonal_(tensor)
    require_orthogonal(tensor, 1.0, TOLERANCE[torch.float32])
    assert other.min() >= 0
    assert torch.equal(found.float(), tensor if found is tensor else other)


def test_it_is_uniformly_distributed() -> None:
    """Rotations of the plane: the angle is uniform on the circle."""
    from scipy import stats

    angles = []
    for seed in range(2000):
        with fused(seed=seed):
            q = init.orthogonal_(torch.empty(2, 2))
        angles.append(float(torch.atan2(q[1, 0], q[0, 0])))
    assert stats.kstest(angles, stats.uniform(-torch.pi, 2 * torch.pi).cdf).pvalue > 1e-3


class Net(nn.Module):
    def __init__(self, is_late: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.rnn = nn.GRU(3, 4)
        if not is_late:
            self.init_weights()

    def init_weights(self) -> None:
        nn.init.orthogonal_(self.first.weight, gain=2.0)
        for name, parameter in self.rnn.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(parameter)


def test_its_values_are_those_of_the_name() -> None:
    built = build(Net, seed=4)
    other = nn.Linear(8, 8)
    late = Net(is_late=True)
    with fused(seed=4, root=late):
        init.orthogonal_(other.weight)  # which has another stream, and shifts nothing
        late.init_weights()
    for name in ("first.weight", "rnn.weight_hh_l0"):
        assert torch.equal(built.get_parameter(name), late.get_parameter(name)), name
    require_orthogonal(built.first.weight, 2.0, 2e-5)


def test_what_follows_it_waits_with_it() -> None:
    root = nn.Linear(4, 4, bias=False)
    with fused(seed=0, root=root) as plan:
        nn.init.orthogonal_(root.weight)
        root.weight.data.mul_(3.0)
        assert plan.recorder, "it waits"
        [entry] = plan.manifest().tensors
    require_orthogonal(root.weight, 3.0, 2e-5)
    assert entry.status == "computed", "no manifest can promise what LAPACK computes"


def test_each_fan_group_is_orthogonal() -> None:
    def made() -> nn.Module:
        model = nn.Module()
        model.qkv = nn.Parameter(torch.empty(12, 4))
        model.experts = nn.Parameter(torch.empty(3, 5, 4, dtype=torch.bfloat16))
        nn.init.orthogonal_(model.qkv)
        nn.init.orthogonal_(model.experts)
        return model

    with fan_groups({"qkv": [4, 8], "experts": "stacked"}):
        model = build(made, seed=0)
        late = nn.Module()
        late.qkv, late.experts = (nn.Parameter(torch.empty_like(p)) for p in model.parameters())
        with fused(seed=0, root=late):
            nn.init.orthogonal_(late.qkv)
            nn.init.orthogonal_(late.experts)
    for part in (model.qkv[:4], model.qkv[4:], *model.experts):
        require_orthogonal(part, 1.0, TOLERANCE[part.dtype])
    assert torch.equal(model.qkv, late.qkv)
    assert torch.equal(model.experts, late.experts)


def test_made_too_early_for_its_group_it_is_told() -> None:
    def made() -> nn.Module:
        model = nn.Linear(4, 12, bias=False)
        nn.init.orthogonal_(model.weight)
        model.weight.sum().item()
        return model

    with fan_groups({"weight": 3}), pytest.warns(UserWarning, match="weight: read by the model"):
        build(made)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_imported_early_it_is_torchs(backend: str) -> None:
    torch.manual_seed(0)
    expected = imported_early(torch.empty(6, 4), 2.0)
    require_orthogonal(expected, 2.0, 2e-5)
    with fastinit.backend("torch"):
        torch.manual_seed(0)
        assert torch.equal(init.orthogonal_(torch.empty(6, 4), 2.0), expected)
    with fastinit.backend(backend), fused(seed=0):  # type: ignore[arg-type]
        require_orthogonal(imported_early(torch.empty(6, 4), 2.0), 2.0, 2e-5)


def test_it_refuses_what_torch_refuses() -> None:
    with pytest.raises(ValueError, match="2 or more dimensions"):
        init.orthogonal_(torch.empty(3))
    assert init.orthogonal_(torch.empty(0, 3)).shape == (0, 3)
    one, other = (
        init.orthogonal_(torch.empty(3, 3), generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(one, other)
