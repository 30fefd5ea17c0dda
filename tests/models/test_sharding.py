"""Shards of a model, on any mesh, hold what the whole model holds there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import distributed
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from modules import copied, llama, same
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Partial, _StridedShard
from versions import not_on_oldest

from fastinit import BaseModule, build, fused, materialize, verify
from fastinit.tensors.shards import bounds
from fastinit.tensors.walk import named_tensors, walk


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.data(),
)
def test_shards_tile_a_tensor(shape: list[int], mesh: list[int], data: st.DataObject) -> None:
    dims = st.integers(0, len(shape) - 1)
    placement = st.one_of(dims.map(Shard), st.just(Replicate()))
    placements = tuple(data.draw(placement) for _ in mesh)
    if len(mesh) > 1 and isinstance(placements[1], Shard) and data.draw(st.booleans()):
        first = _StridedShard(placements[1].dim, split_factor=mesh[1])
        placements = (first, *placements[1:])
    counts = torch.zeros(shape, dtype=torch.int32)
    for here in torch.cartesian_prod(*map(torch.arange, mesh)).reshape(-1, len(mesh)).tolist():
        first, length = bounds(tuple(shape), tuple(mesh), here, placements)
        counts[tuple(slice(i, i + n) for i, n in zip(first, length, strict=True))] += 1
    replicas = 1
    for size, where in zip(mesh, placements, strict=True):
        replicas *= size if isinstance(where, Replicate) else 1
    assert (counts == replicas).all()


def test_partial_placements_are_refused() -> None:
    with pytest.raises(ValueError, match="redistribute them to Shard or Replicate"):
        bounds((4,), (2,), (0,), (Partial(),))


class Block(nn.Module):
    """Sizes that no mesh divides, a padding row, a tie, a computed buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=7)
        self.up, self.down = nn.Linear(6, 13), nn.Linear(13, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.scaled = nn.Parameter(torch.randn(5, 6) * 0.02)
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.down(self.up(self.embed(x) + self.table).relu())
        return self.head(self.norm(h) + self.scaled.mean(0))


def block() -> nn.Module:
    return Block()


def block_bf16() -> nn.Module:
    return Block().bfloat16()


def fsdp(model: nn.Module, mesh: Any) -> None:
    fully_shard(model.up, mesh=mesh)
    fully_shard(model, mesh=mesh)


def tensor_parallel(model: nn.Module, mesh: Any) -> None:
    parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def both(model: nn.Module, mesh: Any) -> None:
    tensor_parallel(model, mesh["tp"])
    fsdp(model, mesh["dp"])


def columns(model: nn.Module, mesh: Any) -> None:
    """Everything on its last dimension, the scaled one on both."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            last = Shard(parameter.dim() - 1)
            where = [last] if mesh.ndim == 1 else [Shard(0), last]
            sharded = distribute_tensor(parameter.data, mesh, where)
            module.register_parameter(name, nn.Parameter(sharded))


Layout = tuple[
    tuple[int, ...], Callable[[nn.Module, Any], None], Callable[[], nn.Module], int | None
]
LAYOUTS: list[Layout] = [
    ((2,), fsdp, block, 6),
    ((2,), tensor_parallel, block, 6),
    ((2,), fsdp, block, None),
    ((4,), fsdp, block, 6),
    ((4,), tensor_parallel, block, 6),
    ((4,), columns, block, 6),
    ((2, 2), both, block, 6),
    ((2, 2), both, block_bf16, 6),
    ((2, 2), columns, block, 6),
]


def require_initial(model: nn.Module, manifest: str) -> None:
    """`verify` finds every filled shard as it was, and a changed element."""
    answers = verify(model, manifest)
    assert set(answers.values()) <= {True, None}
    assert sum(answer is True for answer in answers.values()) > 5
    name = next(name for name, answer in answers.items() if answer)
    tensor = dict(named_tensors(walk(model)))[name].detach()
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if local.numel():
        before = local.flatten()[-1].clone()
        local[tuple(n - 1 for n in local.shape)] += 1
        assert verify(model, manifest)[name] is False
        local[tuple(n - 1 for n in local.shape)] = before


def gathered(rank: int, layouts: list[Layout]) -> list[dict[str, torch.Tensor]]:
    """The whole tensors of each layout."""
    answers = []
    for mesh, shard, make, seed in layouts:
        torch.manual_seed(100 + rank)  # ranks differ in what they did not agree on
        with fused(seed=seed) as plan:
            model = build(make, device="meta")
        shard(model, init_device_mesh("cpu", mesh, mesh_dim_names=("dp", "tp")[: len(mesh)]))
        materialize(model)
        answers.append(
            {
                name: t.full_tensor() if isinstance(t, DTensor) else t.clone()
                for name, t in model.state_dict().items()
            }
        )
        if seed is not None:
            require_initial(model, plan.to_json())
        if shard is fsdp:
            assert model(torch.arange(4)).isfinite().all()
    return answers


@not_on_oldest("FSDP2 has no forward pass on the CPU, and no uneven shards")
@pytest.mark.parametrize("world", [2, 4])
def test_shards_are_parts_of_the_whole(world: int) -> None:
    layouts = [layout for layout in LAYOUTS if torch.Size(layout[0]).numel() == world]
    answers = distributed.run(world, gathered, layouts)
    for rank, answer in enumerate(answers):
        assert not isinstance(answer, str), answer
        for (mesh, shard, make, seed), whole in zip(layouts, answer, strict=True):
            if seed is None:  # that of rank 0, whose own code computed `scaled`
                torch.manual_seed(100)
            expected = copied(build(make, seed=seed))
            assert expected.keys() == whole.keys()
            if seed is None:
                del expected["scaled"]
            assert same(expected, whole), (rank, mesh, shard)


class Head(BaseModule):
    """Rules with fans, code of its own, something written twice."""

    def __init__(self) -> None:
        super().__init__(
            [dict(type="Xavier", layer="Linear"), dict(type="Normal", layer="Embedding")]
        )
        self.up, self.down = nn.Linear(6, 13), nn.Linear(13, 6)
        self.embed = nn.Embedding(11, 6, padding_idx=7)

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.zeros_(self.embed.weight[7])


def initialised(rank: int, worlds: list[tuple[int, ...]]) -> list[list[dict[str, torch.Tensor]]]:
    """Whole tensors of a model that was sharded, with memory and on meta, and then initialised."""
    answers = []
    for mesh in worlds:
        pair = []
        for device in ("cpu", "meta"):
            with torch.device(device):
                model = Head()
            layout = init_device_mesh("cpu", mesh, mesh_dim_names=("dp", "tp")[: len(mesh)])
            (both if len(mesh) == 2 else fsdp)(model, layout)
            torch.manual_seed(50 if rank == 0 else 60 + rank)
            if device == "cpu":
                model.init_weights()
            else:
                materialize(model)
            pair.append({name: t.full_tensor() for name, t in model.state_dict().items()})
        answers.append(pair)
    return answers


@not_on_oldest("FSDP2 has no forward pass on the CPU, and no uneven shards")
def test_init_weights_of_shards_is_that_of_the_whole() -> None:
    torch.manual_seed(50)
    whole = Head()
    torch.manual_seed(50)
    whole.init_weights()
    expected = copied(whole)
    for answer in distributed.run(4, initialised, [(4,), (2, 2)]):
        assert not isinstance(answer, str), answer
        for with_memory, on_meta in answer:
            assert same(expected, with_memory)
            assert same(expected, on_meta)


# --- real models, and what happens to them on the way ---------------------------------------------


def tied_llama() -> nn.Module:
    return llama(tie_word_embeddings=True, vocab_size=131)


def our_llama() -> nn.Module:
    from examples.llama import SMALL, decoder

    model = decoder(sizes=SMALL)
    model.init_weights()
    return model


def shard_transformers(model: Any, mesh: Any) -> None:
    for layer in model.model.layers:
        plan = {f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"}
        plan |= {f"mlp.{name}_proj": ColwiseParallel() for name in ("gate", "up")}
        plan |= {"self_attn.o_proj": RowwiseParallel(), "mlp.down_proj": RowwiseParallel()}
        parallelize_module(layer, mesh["tp"], plan)
        fully_shard(layer, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])


def shard_all(model: nn.Module, mesh: Any) -> None:
    for child in model.modules():
        if isinstance(child, nn.Linear):
            fully_shard(child, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])


def untied(model: Any, mesh: Any) -> None:
    """A parallel style takes the two ends of a tie apart."""
    model.head.weight = nn.Parameter(distribute_tensor(model.head.weight.data, mesh, [Shard(1)]))
    model.embed.weight = nn.Parameter(distribute_tensor(model.embed.weight.data, mesh, [Shard(0)]))


def wrapped(model: Any, mesh: Any) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model.up = checkpoint_wrapper(model.up)
    model.down = torch.compile(model.down, backend="eager")
    fully_shard(model, mesh=mesh["dp"])


def on_submeshes(model: Any, mesh: Any) -> None:
    """Two parameters each on another dimension of the mesh, one on half of its ranks."""
    model.up.weight = nn.Parameter(distribute_tensor(model.up.weight.data, mesh["dp"], [Shard(0)]))
    down = distribute_tensor(model.down.weight.data, mesh["tp"], [Shard(1)])
    model.down.weight = nn.Parameter(down)


def values(rank: int, layouts: list[Layout]) -> list[dict[str, torch.Tensor]]:
    """As `gathered`, names without the wrappers."""
    answers = gathered(rank, layouts)
    prefixes = ("_checkpoint_wrapped_module.", "_orig_mod.")
    for whole in answers:
        for name in list(whole):
            plain = name
            for prefix in prefixes:
                plain = plain.replace(prefix, "")
            whole[plain] = whole.pop(name)
    return answers


REAL: list[Layout] = [
    ((2, 2), shard_transformers, tied_llama, 6),
    ((2, 2), shard_all, our_llama, 6),
    ((4,), untied, block, 6),
    ((4,), wrapped, block, 6),
    ((2, 2), on_submeshes, block, 6),
]


def test_real_models_ties_wrappers_and_submeshes() -> None:
    for answer in distributed.run(4, values, REAL):
        assert not isinstance(answer, str), answer
        for (_, shard, make, seed), whole in zip(REAL, answer, strict=True):
            expected = copied(build(make, seed=seed))
            assert expected.keys() == whole.keys(), shard
            assert same(expected, whole), shard


def test_a_stage_of_a_pipeline_holds_its_part() -> None:
    """Stages made as pipelines do: the whole model on meta, copied, and cut down to some layers."""
    import copy

    def whole() -> nn.Module:
        layers = nn.ModuleDict({str(n): nn.Linear(6, 6) for n in range(4)})
        return nn.ModuleDict({"embed": nn.Embedding(9, 6), "layers": layers})

    expected = copied(build(whole, seed=8))
    model = build(whole, device="meta", seed=8)
    for kept in (("0", "1"), ("2", "3")):
        stage = copy.deepcopy(model)
        for name in list(stage["layers"]):
            if name not in kept:
                del stage["layers"][name]
        if kept[0] == "2":
            del stage["embed"]
        for name, value in copied(materialize(stage, seed=8)).items():
            assert torch.equal(value, expected[name]), name


def test_a_model_of_405_billion_parameters_on_1024_ranks() -> None:
    from bench import shards

    kinds = {(shape, placements) for _, shape, placements in shards.parameters()}
    for shape, placements in kinds:
        shards.require_tiled(shape, placements, shards.MESH)
    sizes = [shards.planned(rank)[1] for rank in (0, 511, 1023)]
    total = sum(math.prod(shape) for _, shape, _ in shards.parameters())
    assert 405e9 < total < 407e9
    assert all(math.isclose(size, total / 1024, rel_tol=0.01) for size in sizes)
