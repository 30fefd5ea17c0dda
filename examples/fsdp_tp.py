"""FSDP2 over tensor parallelism: every rank fills its shards, with the values of the whole model.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 4 examples/fsdp_tp.py

Four processes on the CPU make a mesh of 2 x 2. The model is built on meta, sharded, and then
given memory and values; no rank ever holds the whole. To check that, each rank then builds the
whole model from the same seed, and compares.
"""

import logging
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastinit

SEED = 0
# A tensor on both axes of the mesh is gathered in two steps; that this is slow is no news here.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


def make() -> nn.Module:
    return nn.Sequential(*(Block(64) for _ in range(2)))


def sharded() -> nn.Module:
    """The model on the mesh: "up" by its columns and "down" by its rows, the rest by FSDP."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("fsdp", "tp"))
    model = fastinit.build(make, device="meta", seed=SEED)
    for block in model:
        parallelize_module(block, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(block, mesh=mesh["fsdp"])
    return fastinit.materialize(fully_shard(model, mesh=mesh["fsdp"]))


def main() -> None:
    model = sharded()
    local = sum(p.to_local().numel() for p in model.parameters())

    # A manifest is enough to check shards by, here as on a thousand ranks; see `fastinit.verify`.
    with fastinit.fused(seed=SEED) as plan:
        whole = fastinit.build(make)
    assert set(fastinit.verify(model, plan.manifest()).values()) == {True}

    mine = f"{'parameter':15}{'placements':15}{'whole':11}rank 0 has\n"
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        value = whole.get_parameter(name)
        assert torch.equal(parameter.full_tensor(), value), name
        if name.startswith("0."):
            places = " ".join(map(str, parameter.placements))
            shape, own = (
                "x".join(map(str, tensor.shape)) for tensor in (value, parameter.to_local())
            )
            mine += f"{name:15}{places:15}{shape:11}{own}\n"

    # Two steps of the real thing: the shards train.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.ones(8, 64)
    losses = []
    for _ in range(2):
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]

    counts = [0] * dist.get_world_size()
    dist.all_gather_object(counts, local)
    if dist.get_rank() == 0:
        total = sum(p.numel() for p in whole.parameters())
        print(f"{mine}\nrank  values  of {total:,} in the whole model; equal to it bit for bit")
        for rank, count in enumerate(counts):
            print(f"{rank:<6}{count:<8,}yes")
        print(f"loss {losses[0]:.4f}, after a step {losses[1]:.4f}", flush=True)
    dist.barrier()


if __name__ == "__main__":
    if "RANK" not in os.environ:
        raise SystemExit("run me by: torchrun --nproc-per-node 4 examples/fsdp_tp.py")
    dist.init_process_group("gloo")
    main()
    dist.destroy_process_group()
