"""Views of wholes on loan: what code does by them, by the local parts, and on a rank without any.

As in `test_sharded.py`, each rank makes the model twice, whole and sharded, and runs the same code
on both. The mesh has two of the three ranks: the third holds nothing, and has to get through.
"""

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import distributed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.utils import parametrize
from versions import not_on_oldest

import fastinit
from fastinit import fused, init


class Net(nn.Module):
    """Tensors whose shards are placed along `dim`, and one, `other`, that is placed otherwise."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.w, self.v, self.other = (nn.Parameter(torch.full((6, 6), 0.5)) for _ in range(3))
        self.short = nn.Parameter(torch.zeros(6, 6, dtype=torch.bfloat16))
        self.register_buffer("count", torch.zeros(6, 6, dtype=torch.int64))

    def parts(self) -> list[Tensor]:
        """The local parts of `w`: of the whole, all of them."""
        w = self.w.data
        return [w.to_local()] if isinstance(w, DTensor) else list(w.chunk(2, self.dim))


def sharded(net: Net, mesh: DeviceMesh) -> Net:
    for name, p in list(net.named_parameters()):
        placement = Replicate() if name == "other" else Shard(net.dim)
        setattr(net, name, nn.Parameter(distribute_tensor(p.data, mesh, [placement])))
    net.count = distribute_tensor(net.count, mesh, [Shard(net.dim)])
    return net


def as_another_dtype(net: Net) -> None:
    net.short.normal_()
    net.short.view(torch.float16).fill_(1.0)


def drawn_as_another_dtype(net: Net) -> None:
    net.short.view(torch.float16).normal_()


def a_part_as_another_dtype(net: Net) -> None:
    net.short.normal_()
    net.short.view(torch.float16)[1:].fill_(1.0)


def a_diagonal(net: Net) -> None:
    net.w.normal_()
    diagonal = net.w.diagonal()
    diagonal.fill_(0)
    net.w[0].normal_()
    net.w.mul_(2)


def a_diagonal_that_is_read(net: Net) -> None:
    net.w.diagonal().normal_()
    net.w.mul_(net.w.sum())


def rows_with_steps(net: Net) -> None:
    net.w[::2, 1::3].normal_()
    net.w.mul_(net.w.norm())


def local_parts(net: Net) -> None:
    net.w.normal_()
    for part in net.parts():
        part[..., :2].fill_(2)
    net.w.mul_(net.w.norm())


def a_cast_of_local_parts(net: Net) -> None:
    net.w.normal_()
    casts = [part.double() for part in net.parts()]
    net.w.mul_(net.w.norm())
    assert not any(cast.isnan().any() for cast in casts)


def a_copy_of_what_is_placed_otherwise(net: Net) -> None:
    net.other.normal_()
    net.w.copy_(net.other)
    net.v.normal_()
    net.other.copy_(net.v)


def a_copy_that_waits(net: Net) -> None:
    net.w.normal_()
    net.v.copy_(net.w)
    net.v[0].fill_(2)
    net.w.zero_()


def a_copy_of_a_row(net: Net) -> None:
    net.v.normal_()
    net.w.copy_(net.v[0])
    net.v.copy_(torch.arange(6.0))


def integers(net: Net) -> None:
    net.count.fill_(7)
    net.count[2].zero_()


def what_torch_refuses(net: Net) -> None:
    net.w.normal_()
    for draw in (net.w.normal_, init.normal_):
        try:
            draw(*() if draw == net.w.normal_ else (net.w,), std=-1)
        except RuntimeError:
            net.v.add_(1)


def a_view_in_garbage(net: Net) -> None:
    net.w.normal_()
    row = net.w[0]
    row.fill_(2)
    if dist.get_rank() == 0:  # where it stays, and the loan with it
        cycle: list[Any] = [row]
        cycle.append(cycle)
        del cycle
    del row
    net.w.mul_(net.w.norm())
    net.w[1].normal_()
    net.v.copy_(net.w)


ACTS: list[Callable[[Net], object]] = [
    as_another_dtype,
    drawn_as_another_dtype,
    a_part_as_another_dtype,
    a_diagonal,
    a_diagonal_that_is_read,
    rows_with_steps,
    local_parts,
    a_cast_of_local_parts,
    a_copy_of_what_is_placed_otherwise,
    a_copy_that_waits,
    a_copy_of_a_row,
    integers,
    what_torch_refuses,
    a_view_in_garbage,
]


def whole(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor()
    return found


def named(manifest: str) -> list[Any]:
    """The entries of the parameters: bytes that are filled as another dtype have a number."""
    entries = json.loads(manifest)["tensors"]
    return [entry for entry in entries if not entry["name"].startswith("#")]


def acted(rank: int) -> list[str]:
    """What differs, in words."""
    gc.disable()
    mesh = DeviceMesh("cpu", [0, 1])
    found = []
    for dim in (0, 1):
        for act in ACTS:
            results = []
            for net in (Net(dim), sharded(Net(dim), mesh)):
                with torch.no_grad(), fused(seed=3, root=net) as plan:
                    act(net)
                results.append((net.state_dict(), plan.to_json()))
                if False in fastinit.verify(net, plan.to_json()).values():
                    found.append(f"{act.__name__} {dim}: verify")
            (expected, told), (actual, told_of_shards) = results
            for name, tensor in actual.items():
                if rank < 2 and not torch.equal(whole(tensor), expected[name]):
                    found.append(f"{act.__name__} {dim}: {name}")
                if rank == 2 and tensor.to_local().numel() > 0:
                    found.append(f"{act.__name__} {dim}: {name} is held outside of the mesh")
            if rank < 2 and act is not local_parts and named(told) != named(told_of_shards):
                found.append(f"{act.__name__} {dim}: the manifest")
    return found + single_calls(mesh)


class Pair(NamedTuple):
    first: Tensor
    second: float


class AsPartial(nn.Module):
    """A parametrization whose result is placed as no parameter may be."""

    def forward(self, weight: Tensor) -> Tensor:
        mesh, shape, stride = weight.device_mesh, weight.shape, weight.stride()  # type: ignore[attr-defined]
        return DTensor.from_local(
            torch.ones(shape), mesh, [Partial()], run_check=False, shape=shape, stride=stride
        )

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def doubled(pair: Pair) -> Pair:
    """A function of a library, which function modes see as they see torch's."""
    if torch.overrides.has_torch_function((pair.first,)):
        return torch.overrides.handle_torch_function(doubled, (pair.first,), pair)  # type: ignore[no-any-return]
    return Pair(pair.first * 2, pair.second * 2)


def single_calls(mesh: DeviceMesh) -> list[str]:
    """What calls with DTensors do besides, in words where it is wrong."""
    is_member = mesh.get_coordinate() is not None
    found = []

    def expect(is_right: bool, what: str) -> None:
        if not is_right and is_member:
            found.append(what)

    def made(value: float = 0.0) -> Tensor:
        return distribute_tensor(torch.full((4, 3), value), mesh, [Shard(0)])

    tensor = made()
    local = tensor.to_local()
    address, numbers = local.data_ptr(), (ctypes.c_float * local.numel())
    with fused(seed=1):
        nn.init.ones_(tensor)
        tensor.untyped_storage()  # from now on it may be read out of sight
        nn.init.constant_(tensor, 2)
        expect(set(numbers.from_address(address)) == {2.0} if address else False, "escape")

    tensor = made()
    init.normal_(tensor, generator=torch.Generator().manual_seed(dist.get_rank()))
    expected = init.normal_(torch.zeros(4, 3), generator=torch.Generator().manual_seed(0))
    expect(torch.equal(whole(tensor), expected), "the generator is not that of the first rank")

    scalar, expected = distribute_tensor(torch.zeros(()), mesh, [Replicate()]), torch.zeros(())
    for each in (scalar, expected):
        with fused(seed=4):
            nn.init.normal_(each)
    expect(torch.equal(whole(scalar), expected), "scalar")

    tensor, other = made(2.0).requires_grad_(), made()
    loss, seen = (tensor * 3).sum(), []
    tensor.register_hook(lambda gradient: seen.extend(other.to_local().flatten().tolist()))
    with fused(seed=1):
        nn.init.ones_(other)
        loss.backward()
    expect(set(seen) == {1.0}, "backward: a hook has not seen what waited")
    expect(is_member and bool((whole(tensor.grad) == 3).all()), "backward")

    with fused(seed=1):
        nn.init.ones_(tensor := made())
        pair = doubled(Pair(tensor, 1.0))
        expect(type(pair) is Pair and pair.second == 2, "named tuple")
        expect(bool((whole(pair.first) == 2).all()), "named tuple: values")

    uneven = DTensor.from_local(
        torch.zeros(3, 3), mesh, [Shard(0)], run_check=False, shape=(4, 3), stride=(3, 1)
    )
    try:
        init.ones_(uneven)
    except ValueError as error:
        expect("holds (3, 3) here, where (2, 3) was expected" in str(error), "uneven")
    else:
        expect(False, "uneven shards are filled")

    root = nn.Module()
    part = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    root.part, root.plain = nn.Parameter(part), nn.Parameter(torch.zeros(3))
    with fused(seed=1, root=root):
        nn.init.ones_(root.plain)  # code that leaves the other alone is none of our business
        try:
            nn.init.ones_(root.part)
        except ValueError as error:
            expect("redistribute them to Shard or Replicate" in str(error), "Partial")
        else:
            expect(False, "a Partial is filled")
    expect(bool((root.plain == 1).all()), "Partial: what is beside it")

    layer = nn.Linear(3, 4, bias=False)
    layer.weight = nn.Parameter(made(2.0))
    parametrize.register_parametrization(layer, "weight", AsPartial())
    try:
        fastinit.constant_init(layer, 1)
    except ValueError as error:
        expect("redistribute them to Shard or Replicate" in str(error), "computed, Partial")
    else:
        expect(False, "a computed Partial is filled")

    results = []
    for fill in (nn.init.orthogonal_, init.orthogonal_):
        torch.manual_seed(0)
        results.append(made())
        with fastinit.backend("torch"), fused(), fastinit.backend("native"):
            fill(results[-1])
    expect(torch.equal(*(each.to_local() for each in results)), "a plan on the torch backend")
    return found


@not_on_oldest("a rank outside of a mesh makes no DTensor")
def test_code_computes_what_it_would_on_the_whole_and_the_third_rank_gets_through() -> None:
    for found in distributed.run(3, acted):
        assert found == []
