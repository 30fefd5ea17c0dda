"""DTensors in a plan: whatever code does to shards, together they hold what the whole would hold.

Each rank makes the model twice, whole and sharded, and runs the same code on both in plans with one
seed. Values, and the manifest, have to agree; and since the whole is no shard, two equal shards
cannot pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import distributed
import pytest
import torch
from acts import ACTS, Net, rebound
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from versions import not_on_oldest

import fastinit
from fastinit import fan_groups, fused, init

Places = Callable[[int], list[Any]]


def rows(dims: int) -> list[Any]:
    return [Shard(0)]


def columns(dims: int) -> list[Any]:
    return [Shard(dims - 1)]


def rows_and_columns(dims: int) -> list[Any]:
    return [Shard(0), Shard(dims - 1)]


def replicas(dims: int) -> list[Any]:
    return [Replicate(), Shard(0)]


PLACES: dict[int, list[tuple[tuple[int, ...], Places]]] = {
    1: [((1,), rows)],
    2: [((2,), rows), ((2,), columns)],
    4: [((4,), rows), ((2, 2), rows_and_columns), ((2, 2), replicas)],
}


def sharded(net: nn.Module, mesh: Any, places: Places) -> nn.Module:
    for module in net.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            tensor = distribute_tensor(p.data, mesh, places(p.dim()))
            setattr(module, name, nn.Parameter(tensor, p.requires_grad))
        for name, b in list(module.named_buffers(recurse=False)):
            setattr(module, name, distribute_tensor(b, mesh, places(b.dim())))
    return net


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def wholes(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(t.detach()) for name, t in net.state_dict().items()}


def different(expected: nn.Module, net: nn.Module) -> list[str]:
    actual = wholes(net)
    return [n for n, t in wholes(expected).items() if not torch.equal(t, actual[n])]


def acted(rank: int, world: int) -> list[str]:
    """What differs, in words."""
    found = []
    for shape, places in PLACES[world]:
        mesh = init_device_mesh("cpu", shape)
        for act in ACTS:
            results = []
            for net in (Net(), sharded(Net(), mesh, places)):
                torch.manual_seed(rank)
                with torch.no_grad(), fused(seed=3, root=net) as plan:
                    act(net)
                results.append((net, plan.to_json()))
            (expected, told), (actual, told_of_shards) = results
            where = f"{act.__name__} on {shape}, {places.__name__}"
            found += [f"{where}: {name}" for name in different(expected, actual)]
            # Of memory that has taken another's place a manifest tells less than of a shard's.
            if act is not rebound and json.loads(told) != json.loads(told_of_shards):
                found.append(f"{where}: the manifest")
            answers = fastinit.verify(actual, told_of_shards)
            if False in answers.values():
                found.append(f"{where}: verify {answers}")
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_code_computes_what_it_would_on_the_whole(world: int) -> None:
    for found in distributed.run(world, acted, world):
        assert found == []


class Block(nn.Module):
    """A model as users write it: its own init_weights, a padding row, buffers made there."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=7)
        self.up, self.down = nn.Linear(6, 13), nn.Linear(13, 6)
        self.norm = nn.LayerNorm(6)
        self.register_buffer("freqs", torch.zeros(6), persistent=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h: torch.Tensor = self.down(self.up(self.embed(x) * self.freqs).relu())
        return self.norm(h)

    def init_weights(self) -> None:
        for module in (self.embed, self.norm):
            module.reset_parameters()
        nn.init.trunc_normal_(self.up.weight, std=0.02)
        nn.init.orthogonal_(self.down.weight)
        self.up.bias.data.uniform_(-1, 1)
        nn.init.constant_(self.down.bias, 0.5)
        self.freqs.copy_(torch.arange(6.0).cos())


def by_rule(module: nn.Module) -> None:
    """An `init_fn` for `Module.apply`, as transformers' `_init_weights`."""
    if isinstance(module, nn.Linear):
        module.weight.data.normal_(mean=0.0, std=0.02)
        module.bias.data.zero_()
    elif isinstance(module, nn.Embedding):
        module.weight.data.normal_(mean=0.0, std=0.02)
        module.weight.data[module.padding_idx].zero_()
    elif isinstance(module, nn.LayerNorm):
        module.bias.data.zero_()
        module.weight.data.fill_(1.0)
    elif isinstance(module, Block):
        module.freqs.zero_()


def fsdp(net: Any, mesh: Any, **policies: Any) -> None:
    fully_shard(net.up, mesh=mesh, **policies)
    fully_shard(net, mesh=mesh, **policies)


def mixed(net: Any, mesh: Any) -> None:
    fsdp(net, mesh, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))


def offloaded(net: Any, mesh: Any) -> None:
    fsdp(net, mesh, offload_policy=CPUOffloadPolicy())


def tensor_parallel(net: Any, mesh: Any) -> None:
    parallelize_module(net, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def both(net: Any, mesh: Any) -> None:
    tensor_parallel(net, mesh["tp"])
    fsdp(net, mesh["dp"])


STYLES: dict[int, list[tuple[tuple[int, ...], Callable[[Any, Any], None]]]] = {
    1: [((1,), fsdp)],
    2: [((2,), fsdp), ((2,), tensor_parallel), ((2,), mixed)],
    4: [((4,), fsdp), ((2, 2), both), ((2, 2), fsdp)],  # the last: HSDP
}
FLOWS: list[Callable[[Any], object]] = [
    Block.init_weights,
    lambda net: net.apply(by_rule),
    lambda net: [p.requires_grad_(False) for p in net.parameters()] and net.apply(by_rule),
]


def flowed(rank: int, world: int) -> list[str]:
    """The flow that torch's documentation tells: meta, fully_shard, to_empty, init_weights."""
    found = []
    for shape, style in STYLES[world]:
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("dp", "tp")[: len(shape)])
        for flow in FLOWS:
            expected = Block()
            with fused(seed=5, root=expected):
                flow(expected)
            with torch.device("meta"):
                net = Block()
            style(net, mesh)
            net.to_empty(device="cpu")
            with fused(seed=5, root=net):
                flow(net)
            found += [f"{style.__name__} {shape}: {n}" for n in different(expected, net)]
            if style is fsdp and not net(torch.arange(4)).isfinite().all():
                found.append(f"{style.__name__} {shape}: forward")
            # Memory comes inside the plan, which knows the names already.
            with torch.device("meta"):
                late = Block()
            style(late, mesh)
            with fused(seed=5, root=late):
                late.to_empty(device="cpu")
                flow(late)
            found += [f"{style.__name__} {shape}, late: {n}" for n in different(expected, late)]
    return found


@not_on_oldest("FSDP2 has no forward pass on the CPU, and no uneven shards")
@pytest.mark.parametrize("world", [1, 2, 4])
def test_meta_fully_shard_to_empty_init_weights(world: int) -> None:
    for found in distributed.run(world, flowed, world):
        assert found == []


def alike(tensors: list[torch.Tensor]) -> bool:
    return any(
        torch.equal(a, b) for n, a in enumerate(tensors) for b in tensors[:n] if a.shape == b.shape
    )


def drew(rank: int) -> dict[str, Any]:
    """Locals of random fills without names, without seeds, without plans."""
    mesh = init_device_mesh("cpu", (4,))
    torch.manual_seed(0)  # as everybody does: then torch's own shards are alike
    tensor = distribute_tensor(torch.zeros(8, 2), mesh, [Shard(0)])
    found = {}

    def keep(name: str) -> None:
        found[name] = (tensor.to_local().clone(), tensor.full_tensor())

    with fused():
        nn.init.normal_(tensor)
    keep("fused")
    with fused():
        tensor[1:7].normal_()  # a part without a name: of its own
    keep("part")
    with fused(seed=1):
        tensor.copy_(torch.randn(8, 2))
    keep("randn")
    for name, function in {
        "normal": lambda: init.normal_(tensor),
        "uniform": lambda: init.uniform_(tensor),
        "trunc": lambda: init.trunc_normal_(tensor),
        "xavier": lambda: init.xavier_normal_(tensor),
        "generator": lambda: init.normal_(tensor, generator=torch.Generator().manual_seed(rank)),
        "orthogonal": lambda: init.orthogonal_(tensor),
        "sparse": lambda: init.sparse_(tensor, 0.1),
    }.items():
        function()
        keep(name)
    return found


def test_no_two_shards_are_alike() -> None:
    answers = distributed.run_each(4, *IN_FOUR)[drew]
    assert not any(isinstance(answer, str) for answer in answers), answers
    for name in answers[0]:
        assert not alike([answer[name][0] for answer in answers]), name
        assert all(torch.equal(answers[0][name][1], answer[name][1]) for answer in answers), name
    q = answers[0]["orthogonal"][1]
    torch.testing.assert_close(q.T @ q, torch.eye(2))


def alone(rank: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    tensor = distribute_tensor(torch.zeros(8, 2), init_device_mesh("cpu", (2,)), [Shard(0)])
    return [whole(init.normal_(tensor)), whole(init.kaiming_uniform_(tensor))]


def test_outside_of_plans_the_whole_is_that_of_rank_0() -> None:
    torch.manual_seed(0)
    expected = [init.normal_(torch.zeros(8, 2)), init.kaiming_uniform_(torch.zeros(8, 2))]
    for answer in distributed.run_each(2, *IN_TWO)[alone]:
        assert not isinstance(answer, str), answer
        assert all(map(torch.equal, answer, expected))


def disagreed(rank: int) -> list[str]:
    mesh = init_device_mesh("cpu", (2, 2))
    said = []
    for seed in (rank, rank // 2, rank % 2):
        tensor = distribute_tensor(torch.zeros(8, 2), mesh, [Shard(0), Replicate()])
        try:
            with fused(seed=seed):
                nn.init.normal_(tensor)
        except ValueError as error:
            said.append(str(error))
        assert not tensor.full_tensor().any()
    partial = DTensor.from_local(torch.zeros(3), mesh, [Partial(), Replicate()])
    try:
        with fused(seed=0, root=None):
            nn.init.ones_(partial)
    except ValueError as error:
        said.append(str(error))
    return said


def test_seeds_that_differ_and_placements_that_are_unknown_are_refused_on_all_ranks() -> None:
    for said in distributed.run_each(4, *IN_FOUR)[disagreed]:
        assert len(said) == 4, said
        assert all("give all ranks one seed" in text for text in said[:3])
        assert "redistribute them to Shard or Replicate" in said[3]


def grouped(rank: int) -> list[str]:
    found = []
    for shape, places in PLACES[4]:
        mesh = init_device_mesh("cpu", shape)
        for groups in ({"wide": 2}, {"wide": [1, 3]}, {"kernel": "stacked"}, {"rows": [2, 3]}):
            results = []
            for net in (Net(), sharded(Net(), mesh, places)):
                with fan_groups(groups), fused(seed=2, root=net) as plan:
                    for p in (net.rows, net.wide, net.kernel):
                        nn.init.xavier_normal_(p)
                results.append((net, json.loads(plan.to_json())))
            found += [f"{groups} {shape}: {n}" for n in different(results[0][0], results[1][0])]
            if results[0][1] != results[1][1]:
                found.append(f"{groups} {shape}: the manifest")
    return found


def test_fan_groups_are_those_of_the_whole() -> None:
    for found in distributed.run_each(4, *IN_FOUR)[grouped]:
        assert found == []


def went_backward(rank: int) -> str:
    tensor = nn.Parameter(
        distribute_tensor(torch.ones(4, 2), init_device_mesh("cpu", (2,)), [Shard(0)])
    )
    with fused(seed=0):
        try:
            tensor[1].sum().backward()
        except RuntimeError as error:
            return str(error)
    return ""


def test_no_gradient_is_lost_through_a_view() -> None:
    for said in distributed.run_each(2, *IN_TWO)[went_backward]:
        assert "compute it outside of fused or init_weights" in said


IN_FOUR = (drew, disagreed, grouped)
IN_TWO = (alone, went_backward)


def on_the_cpu_of_gpus(rank: int) -> list[str]:
    """A mesh of (pretended) GPUs whose shards are in the memory of the CPU."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.destroy_process_group()
    dist.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())
    mesh = DeviceMesh("cuda", torch.arange(4), _rank=rank)
    found = []
    local = torch.zeros(2, 3)
    meta = TensorMeta(torch.Size((8, 3)), (3, 1), torch.float32)
    spec = DTensorSpec(mesh, (Shard(0),), meta)
    tensor = DTensor(local, spec, requires_grad=False)  # as FSDP makes it, which moves nothing
    expected = torch.zeros(8, 3)
    for seed, act in ((1, nn.init.normal_), (2, nn.init.orthogonal_), (3, nn.init.trunc_normal_)):
        with fused(seed=seed):
            act(expected)
        with fused(seed=seed):
            act(tensor)
        if not torch.equal(local, expected[2 * rank : 2 * rank + 2]):
            found.append(act.__name__)
    return found


@not_on_oldest("a mesh cannot be told its rank")
def test_shards_in_the_memory_of_the_cpu() -> None:
    for found in distributed.run(2, on_the_cpu_of_gpus):
        assert found == []


def flattened(rank: int) -> list[str]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    said = []
    for keeps in (True, False):
        model = fastinit.Sequential(
            nn.Linear(4, 4), init_cfg=dict(type="Normal", layer="Linear", std=0.01)
        )
        wrapped = FullyShardedDataParallel(
            model, use_orig_params=keeps, device_id=torch.device("cpu")
        )
        before = [p.detach().clone() for p in wrapped.parameters()]
        for act in (
            model.init_weights,
            lambda model=model: fastinit.initialize(model, dict(type="Normal", layer="Linear")),
            lambda wrapped=wrapped: fused(root=wrapped).__enter__(),
        ):
            try:
                act()
            except ValueError as error:
                said.append(str(error))
        if keeps:
            try:
                with fused():
                    nn.init.normal_(model[0].weight)
            except ValueError as error:
                said.append(str(error))
        assert all(map(torch.equal, before, wrapped.parameters()))
    return said


def test_flattened_parameters_are_refused_by_name() -> None:
    for said in distributed.run(2, flattened):
        assert len(said) == 7, said
        assert all("FullyShardedDataParallel" in text and "fully_shard" in text for text in said)
        assert said[0].startswith("0.weight is part")


def test_placeholders_of_zero_3_are_refused() -> None:
    class Head(fastinit.BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type="Kaiming", layer="Linear"))
            self.linear = nn.Linear(4, 4)

    head = Head()
    head.linear.weight = nn.Parameter(torch.empty(0))
    head.linear.weight.ds_shape = torch.Size((4, 4))  # type: ignore[attr-defined]
    text = r"DeepSpeed's placeholder for a partitioned parameter of shape \(4, 4\)"
    with pytest.raises(ValueError, match=text):
        head.init_weights()
    for function in (nn.init.normal_, init.kaiming_uniform_, init.zeros_):
        with pytest.raises(ValueError, match=text), fused():
            function(head.linear.weight)
