"""Wholes that are in the place of shards, and code that uses the shards' memory meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import distributed
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard

from fastinit import fused, init


def sharded(shape: tuple[int, ...]) -> nn.Module:
    with torch.device("meta"):
        model = module(shape)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model.to_empty(device="cpu")


def module(shape: tuple[int, ...]) -> nn.Module:
    model = nn.Module()
    model.w = nn.Parameter(torch.empty(shape))
    return model


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


READS: dict[str, Callable[[Any], Tensor]] = {
    "full_tensor": lambda w: w.full_tensor(),
    "to_local": lambda w: w.to_local().clone(),
    "redistribute": lambda w: w.redistribute(placements=[Replicate()]).to_local(),
    "clone": lambda w: w.clone(),
    "detach, clone": lambda w: w.detach().clone(),
    "cast": lambda w: w.double(),
    "deepcopy": copy.deepcopy,
    "product": lambda w: w * 1,
}


def read(rank: int) -> list[str]:
    expected = module((8, 6))
    with fused(seed=1, root=expected), torch.no_grad():
        init.normal_(expected.w)
        expected.w[1] = 7
    found = []
    for name, act in READS.items():
        for is_held in (False, True):
            model = sharded((8, 6))
            with fused(seed=1, root=model), torch.no_grad():
                init.normal_(model.w)
                row = model.w[1]
                row.fill_(7)
                if not is_held:
                    del row
                seen = act(model.w)
            seen = whole(seen).float()
            is_part = seen.shape != expected.w.shape
            if not torch.equal(seen, expected.w.chunk(2)[rank] if is_part else expected.w):
                found.append(f"{name}, {is_held}: read {seen}")
            if not torch.equal(whole(model.w), expected.w):
                found.append(f"{name}, {is_held}: {whole(model.w)}")
    return found


def both_written(w: Any) -> None:
    row = w[1]
    row.fill_(2)
    w.to_local().zero_()


def filled_by_us(w: Any) -> None:
    row = w[1]
    row.fill_(2)
    init.zeros_(w.to_local())
    w.add_(1)


def still_held_at_the_end(w: Any) -> Tensor:
    row: Tensor = w[1]
    row.fill_(2)
    init.zeros_(w.to_local())
    return row


def only_looked_at(w: Any) -> None:
    for row in w:
        row.sum()
    w.to_local().zero_()


def given_up(w: Any) -> None:
    row = w[1]
    row.fill_(2)
    del row
    w.to_local().zero_()


def by_the_dtensor(w: Any) -> None:
    row = w[1]
    w.zero_()
    row.add_(1)


def held_when_all_is_executed(w: Any) -> None:
    row = w[1]
    row.fill_(2)
    with torch.enable_grad():
        torch.ones(2, requires_grad=True).sum().backward()
    row.add_(1)


REFUSED = (both_written, filled_by_us, still_held_at_the_end, only_looked_at)
SERVED = {
    given_up: [0.0] * 8,
    by_the_dtensor: [0.0, 1.0] + [0.0] * 6,
    held_when_all_is_executed: [1.0, 3.0] + [1.0] * 6,
}


def written(rank: int) -> list[str]:
    found = []
    for act in (*REFUSED, *SERVED):
        model = sharded((8, 6))
        held = None
        try:
            with fused(seed=1, root=model), torch.no_grad():
                init.ones_(model.w)
                held = act(model.w)
        except ValueError as error:
            if act in SERVED or "w: its local part was written while" not in str(error):
                found.append(f"{act.__name__}: {error}")
        else:
            if SERVED.get(act) != whole(model.w)[:, 0].tolist():
                found.append(f"{act.__name__}: {whole(model.w)}")
        del held
    return found


def fill(a: Tensor, b: Tensor) -> None:
    init.normal_(a).mul_(2)
    init.uniform_(b)
    init.normal_(a)


def row_of_one(a: Tensor, b: Tensor) -> None:
    init.normal_(a)
    init.uniform_(b)
    a[0] = 5


def in_one_buffer(rank: int) -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    found = []
    for act in (fill, row_of_one):
        one, two = nn.Module(), nn.Module()
        one.a, one.b = nn.Parameter(torch.zeros(8, 6)), nn.Parameter(torch.zeros(8, 6))
        buffer = torch.zeros(2, 4, 6)
        two.a, two.b = (nn.Parameter(DTensor.from_local(t, mesh, [Shard(0)])) for t in buffer)
        try:
            for model in (one, two):
                with fused(seed=1, root=model), torch.no_grad():
                    act(model.a, model.b)
        except ValueError as error:
            if act is fill or "a: its local part is a view of a buffer" not in str(error):
                found.append(f"{act.__name__}: {error}")
        else:
            are_equal = all(
                torch.equal(p, whole(q))
                for p, q in zip(one.parameters(), two.parameters(), strict=True)
            )
            if act is not fill or not are_equal:
                found.append(f"{act.__name__}: {are_equal}")
    return found


def on_one_rank(rank: int) -> list[str]:
    found = []
    for shape in ((1, 6), (1,), (3, 4)):
        pair = module(shape), sharded(shape)
        for model in pair:
            with fused(seed=1, root=model), torch.no_grad():
                init.normal_(model.w)
                model.w.div_(model.w.norm())
                model.w[0].add_(2)
        if not torch.equal(pair[0].w, whole(pair[1].w)):
            found.append(f"{shape}: {whole(pair[1].w)}")
    return found


JOBS = {
    "the memory of a shard has what its whole has": read,
    "writes to a shard beside its whole are refused by name": written,
    "shards in one buffer are filled alone, or refused": in_one_buffer,
    "parameters that one rank has all of": on_one_rank,
}


def everything(rank: int) -> dict[str, list[str]]:
    return {what: job(rank) for what, job in JOBS.items()}


def test_shards_and_wholes() -> None:
    for found in distributed.run(2, everything):
        assert found == {what: [] for what in JOBS}
