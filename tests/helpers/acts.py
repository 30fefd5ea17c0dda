"""Pieces of code that initialise a small net in all the ways that models do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.init import kaiming_uniform_, normal_, trunc_normal_, uniform_

from fastinit import init

Act = Callable[["Net"], object]


class Net(nn.Module):
    """Sizes that few meshes divide, so that shards are uneven, and some empty."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(5, 3))
        self.wide = nn.Parameter(torch.zeros(4, 6))
        self.bias = nn.Parameter(torch.zeros(7))
        self.kernel = nn.Parameter(torch.zeros(4, 3, 3))
        self.register_buffer("table", torch.zeros(3, 5))


def assigned(net: Net) -> None:
    net.rows[3] = 5.0


def masked(net: Net) -> None:
    net.rows.normal_()
    net.rows[net.rows < 0] = 0


def padded(net: Net) -> None:
    nn.init.normal_(net.rows)
    net.rows.data[2].zero_()


def padded_then_drawn(net: Net) -> None:
    padded(net)
    nn.init.uniform_(net.rows)


def padded_with_gradients(net: Net) -> None:
    with torch.enable_grad():
        nn.init.zeros_(net.rows[4])


def computed(net: Net) -> None:
    net.rows.copy_(torch.randn(5, 3) * 0.1)
    net.wide.copy_(torch.randn_like(net.wide))
    net.bias.data.copy_(torch.arange(7.0))


def in_parts(net: Net) -> None:
    for part in net.wide.chunk(2):
        nn.init.xavier_uniform_(part)
    for part in net.kernel:
        nn.init.kaiming_normal_(part)


def normalised(net: Net) -> None:
    nn.init.normal_(net.rows)
    net.rows.div_(net.rows.norm())
    nn.init.normal_(net.wide)
    net.wide.copy_(net.wide / net.wide.norm(dim=1, keepdim=True))


def drawn_again(net: Net) -> None:
    nn.init.normal_(net.rows)
    net.rows.sum()
    nn.init.normal_(net.rows)


def read(net: Net) -> None:
    nn.init.normal_(net.rows)
    net.bias.fill_(net.rows[1, 2].item())


def tails(net: Net) -> None:
    nn.init.uniform_(net.rows)
    net.rows.mul_(0.5).add_(1)
    net.wide.normal_().clamp_(-1, 1)
    net.wide.uniform_().erfinv_().mul_(2).clamp_(-1, 1)


def of_torch(net: Net) -> None:
    nn.init.orthogonal_(net.rows)
    nn.init.eye_(net.wide)
    nn.init.dirac_(net.kernel)


def of_fastinit(net: Net) -> None:
    init.orthogonal_(net.rows)
    init.eye_(net.wide)
    init.dirac_(net.kernel)


def sparse(net: Net) -> None:
    nn.init.sparse_(net.rows, 0.4)
    init.sparse_(net.wide, 0.4)


def drawn_by_torch(net: Net) -> None:
    net.rows.bernoulli_(0.5)
    net.wide.exponential_()


def views(net: Net) -> None:
    nn.init.normal_(net.rows.t())
    nn.init.uniform_(net.wide.view(2, 2, 6))
    net.bias[3:].fill_(1.0)
    net.kernel[:, 1:, ::2].normal_()


def fan_rules(net: Net) -> None:
    for function in (nn.init.xavier_normal_, nn.init.kaiming_uniform_):
        function(net.rows)
        function(net.kernel)
    nn.init.trunc_normal_(net.wide, std=0.02)


def buffers(net: Net) -> None:
    net.table.copy_(torch.outer(torch.arange(3.0), torch.arange(5.0)).cos())
    net.table.mul_(2.0)


def copied_between(net: Net) -> None:
    nn.init.normal_(net.wide)
    net.kernel.data[:, 0].copy_(net.rows[:4])
    net.table.copy_(net.rows.t())  # whose fill has not run yet
    net.rows.copy_(net.table.t().contiguous().normal_())
    net.bias.data.copy_(net.wide.view(-1)[:7])


def replaced(net: Net) -> None:
    net.rows = nn.Parameter(torch.empty_like(net.rows))
    nn.init.normal_(net.rows)
    net.wide.copy_(net.wide.new_empty(net.wide.shape).normal_())


def through_views(net: Net) -> None:
    q, k = net.wide.data.chunk(2)
    nn.init.ones_(net.wide)
    q.fill_(2)
    k.fill_(3)
    row = net.rows.data[1]
    nn.init.ones_(net.rows)
    net.rows.data.add_(1)
    row.mul_(3)
    net.rows.data.mul_(row.sum().item())
    for n, part in enumerate(net.kernel.data):
        net.kernel.data.add_(1)
        part.mul_(n)


def imported_early(net: Net) -> None:
    with torch.enable_grad():
        normal_(net.rows)
        kaiming_uniform_(net.wide)
        uniform_(net.bias)
        trunc_normal_(net.kernel)


def rebound(net: Net) -> None:
    net.rows.data = torch.randn_like(net.rows)
    net.bias.data = net.bias.data.new_tensor([1.0] * 7)


def drawn_with_gradients(net: Net) -> None:
    with torch.enable_grad():
        net.rows.data.copy_(torch.randn_like(net.rows))
        net.wide.data.copy_(torch.bernoulli(torch.rand_like(net.wide)))
        net.bias.data.fill_(net.rows.norm().item())
        net.kernel.data.copy_(nn.functional.dropout(torch.ones_like(net.kernel), 0.5))


ACTS: list[Act] = [
    assigned,
    masked,
    padded,
    padded_then_drawn,
    padded_with_gradients,
    computed,
    in_parts,
    normalised,
    drawn_again,
    read,
    tails,
    of_torch,
    of_fastinit,
    sparse,
    drawn_by_torch,
    views,
    fan_rules,
    buffers,
    copied_between,
    replaced,
    through_views,
    imported_early,
    rebound,
    drawn_with_gradients,
]
