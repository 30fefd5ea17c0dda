"""One seed, one loss curve: the same training on 1, 2 and 4 ranks.

    python examples/loss_curve.py                      prints the losses
    python examples/loss_curve.py --plot curve.svg     draws them, too (pip install matplotlib)

A model is sharded by FSDP2 over 1, 2 and 4 processes on the CPU and trained on the same batches.
With fastinit each shard is filled with the values of the whole model. For comparison, torch's own
way: each rank calls `reset_parameters` on its shards after `torch.manual_seed(0)`. Torch keeps the
ranks' generators apart on GPUs only. On the CPU they draw alike, so that the whole repeats itself,
and depends on how many ranks there are.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard

import fastinit

WORLDS = (1, 2, 4)
STEPS = 40


def make() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)
    )


def initialised(how: str) -> nn.Module:
    if how == "fastinit":
        model = fastinit.build(make, device="meta", seed=0)
        return fastinit.materialize(fully_shard(model))
    with torch.device("meta"):
        model = make()
    fully_shard(model).to_empty(device="cpu")
    torch.manual_seed(0)
    with warnings.catch_warnings():  # torch says so itself; the comparison shows what it means
        warnings.filterwarnings("ignore", "DTensor random operators")
        for layer in model[::2]:
            layer.reset_parameters()
    return model


def train(rank: int, world: int, folder: str) -> None:
    """One rank: the loss of every step over the whole batch, for both ways to begin."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting-{world}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    batches = torch.randn(STEPS, 64, 16, generator=torch.Generator().manual_seed(1))
    curves = {}
    for how in ("torch", "fastinit"):
        model = initialised(how)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        curves[how] = []
        for batch in batches:
            mine = batch.chunk(world)[rank]
            loss = F.cross_entropy(model(mine), mine[:, :8].argmax(1))
            loss.backward()  # FSDP averages the gradients over the ranks
            optimizer.step()
            optimizer.zero_grad()
            total = loss.detach()
            dist.all_reduce(total)
            curves[how].append(total.item() / world)
    if rank == 0:
        torch.save(curves, f"{folder}/{world}.pt")
    dist.barrier()
    dist.destroy_process_group()


def draw(curves: dict[int, dict[str, list[float]]], path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update({"svg.hashsalt": "fastinit", "font.size": 10})
    from matplotlib import pyplot

    titles = {"torch": "reset_parameters on the shards", "fastinit": "fastinit.materialize"}
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
    # Wide below narrow, so that all curves are seen where they are one.
    styles = {1: ("#56b4e9", 7, "-"), 2: ("#d55e00", 3, "-"), 4: ("black", 1.2, "--")}
    for axes, (how, title) in zip(panels, titles.items(), strict=True):
        for world, (colour, width, line) in styles.items():
            label = f"{world} rank{'s' if world > 1 else ''}"
            axes.plot(curves[world][how], line, color=colour, linewidth=width, label=label)
        axes.set(title=title, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("loss")
    panels[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE", help="draw the curves, as .svg or .png")
    given = parser.parse_args()
    curves = {}
    with tempfile.TemporaryDirectory() as folder:
        for world in WORLDS:
            mp.spawn(train, (world, folder), world)
            curves[world] = torch.load(Path(folder) / f"{world}.pt")
    for how in ("torch", "fastinit"):
        print(f"{how:8} step" + "".join(f"{step:>9}" for step in range(0, STEPS, 8)))
        for world in WORLDS:
            losses = "".join(f"{loss:9.5f}" for loss in curves[world][how][::8])
            print(f"{world} rank{'s' if world > 1 else ' '}      {losses}")
        apart = max(
            abs(a - b) for w in WORLDS for a, b in zip(curves[1][how], curves[w][how], strict=True)
        )
        print(f"largest difference {apart:.1e}\n")
    assert apart < 1e-5  # of fastinit: sums in another order, and nothing else
    if given.plot:
        draw(curves, given.plot)


if __name__ == "__main__":
    main()
