"""Random programs on sharded parameters: they write what they write on the whole, or raise."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import distributed
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import fastinit
from fastinit import fused, init

SHAPES = {"a": (8, 6), "b": (8, 6), "odd": (5, 4), "rows": (2, 3), "bias": (6,), "one": (1,)}
Held = dict[int, Tensor]
Program = list[tuple[str, str, int]]
Act = Callable[[Any, Any, Held, int], object]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def read(tensor: Tensor) -> Tensor:
    """A clone or cast of a shard has executed what waited for that; that of a whole may wait."""
    tensor.sum().item()
    return tensor


def backward_elsewhere(*_: Any) -> None:
    with torch.enable_grad():
        torch.ones(2, requires_grad=True).sum().backward()


# (parameter, another of its shape, views that code holds, a small number)
ACTS: dict[str, Act] = {
    "normal": lambda p, q, held, n: init.normal_(p, std=n + 1),
    "torch's uniform": lambda p, q, held, n: nn.init.uniform_(p, -n, 1),
    "truncated": lambda p, q, held, n: nn.init.trunc_normal_(p),
    "constant": lambda p, q, held, n: nn.init.constant_(p, n),
    "method normal": lambda p, q, held, n: p.normal_(),
    "bernoulli": lambda p, q, held, n: p.bernoulli_(0.5),
    "xavier": lambda p, q, held, n: nn.init.xavier_uniform_(p) if p.dim() > 1 else p.zero_(),
    "orthogonal": lambda p, q, held, n: nn.init.orthogonal_(p) if p.dim() > 1 else p.fill_(n),
    "sparse": lambda p, q, held, n: nn.init.sparse_(p, 0.3) if p.dim() > 1 else p.fill_(n),
    "mul": lambda p, q, held, n: p.mul_(n + 2),
    "add": lambda p, q, held, n: p.add_(n),
    "clamp": lambda p, q, held, n: p.clamp_(-0.5, 0.5),
    "normalised": lambda p, q, held, n: p.div_(p.norm() + 1),
    "row": lambda p, q, held, n: p[n % len(p)].fill_(n),
    "random row": lambda p, q, held, n: nn.init.normal_(p[n % len(p)]),
    "rows": lambda p, q, held, n: p.data[1:].mul_(n),
    "flat": lambda p, q, held, n: init.normal_(p.view(-1)),
    "transposed": lambda p, q, held, n: init.uniform_(p.t()),
    "element": lambda p, q, held, n: p.view(-1).__setitem__(0, n),
    "hold a row": lambda p, q, held, n: held.__setitem__(n % 2, p[n % len(p)]),
    "hold a flat view": lambda p, q, held, n: held.__setitem__(n % 2, p.view(-1)),
    "release": lambda p, q, held, n: held.pop(n % 2, None),
    "write what is held": lambda p, q, held, n: n % 2 in held and held[n % 2].add_(n),
    "fill what is held": lambda p, q, held, n: n % 2 in held and nn.init.uniform_(held[n % 2]),
    "copy": lambda p, q, held, n: p.copy_(q),
    "copy a cast": lambda p, q, held, n: p.copy_(read(q.double())),
    "copy a clone": lambda p, q, held, n: p.copy_(read(q.clone()).mul_(n)),
    "noise": lambda p, q, held, n: p.add_(torch.randn_like(q)),
    "data": lambda p, q, held, n: (held.clear(), setattr(p, "data", q.data * n)),
    "sum": lambda p, q, held, n: p.add_(q.sum().item()),
    "gather": lambda p, q, held, n: p.add_(whole(q).sum().item()),
    # Not of a parameter that one rank has nothing of, which would not notice that it is refused.
    "local": lambda p, q, held, n: (local(p) if p.numel() > 1 else p).mul_(n),
    "local fill": lambda p, q, held, n: init.constant_(local(p) if p.numel() > 1 else p, n),
    "backward elsewhere": backward_elsewhere,
}
# What such programs have found.
FOUND = [
    [("a", "flat", 0), ("a", "clamp", 0), ("a", "flat", 0)],
    [("b", "transposed", 3), ("b", "gather", 3), ("b", "flat", 1)],
    [("rows", "random row", 0), ("rows", "clamp", 0), ("rows", "normal", 0)],
    [("one", "random row", 0), ("one", "clamp", 0), ("one", "random row", 0)],
]
REFUSALS = ("its local part was written while", "filled again after orthogonal_")


class Model(nn.Module):
    def __init__(self, shards: dict[str, Any], mesh: Any) -> None:
        super().__init__()
        for name, shape in SHAPES.items():
            tensor = torch.zeros(shape)
            if mesh is not None:
                tensor = distribute_tensor(tensor, mesh, [shards[name]])
            self.register_parameter(name, nn.Parameter(tensor))


def outcome(model: nn.Module, program: Program) -> str:
    """Run the program; return what it raises, by name. What its manifest tells has to be so."""
    held: Held = {}
    others = {"a": "b", "b": "a"}
    parameters = dict(model.named_parameters())
    try:
        with torch.no_grad(), fused(seed=1, root=model) as plan:
            for name, act, n in program:
                q = parameters[others.get(name, name)]
                ACTS[act](parameters[name], q, held, n)
    except ValueError as error:
        if not any(reason in str(error) for reason in REFUSALS):
            raise
        return str(error)
    answers = fastinit.verify(model, plan.manifest())
    assert False not in answers.values(), answers
    return ""


def random_program(draw: random.Random) -> Program:
    """Few parameters and acts at a time meet more often (Groce et al., "Swarm testing", 2012)."""
    names, acts = draw.sample([*SHAPES], 2), draw.sample([*ACTS], 6)
    return [
        (draw.choice(names), draw.choice(acts), draw.randrange(4))
        for _ in range(draw.randrange(1, 9))
    ]


def programs(rank: int, count: int, seed: int) -> tuple[list[Any], int]:
    mesh = init_device_mesh("cpu", (2,))
    draw = random.Random(seed)
    different, refused = [], 0
    for program in [*FOUND, *(random_program(draw) for _ in range(count))]:
        shards = {
            name: draw.choice([Shard(0), Shard(0), Shard(len(shape) - 1), Replicate()])
            for name, shape in SHAPES.items()
        }
        expected, actual = Model(shards, None), Model(shards, mesh)
        said = outcome(expected, program)
        assert not said, said
        try:
            said = outcome(actual, program)
        except Exception as error:
            different.append((program, shards, f"{type(error).__name__}: {error}"))
            continue
        if said:
            refused += 1
            continue
        found = {n: whole(p).tolist() for n, p in actual.named_parameters()}
        names = [n for n, p in expected.named_parameters() if p.tolist() != found[n]]
        if names:
            different.append((program, shards, names))
    return different, refused


def test_programs_write_what_they_write_on_the_whole(pytestconfig: pytest.Config) -> None:
    count = 2000 if pytestconfig.getoption("--thorough") else 100
    for answer in distributed.run(2, programs, count, 1):
        different, refused = answer
        assert not different
        assert refused < count / 4
