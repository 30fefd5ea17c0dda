"""Plans under pressure: many of them, memory that runs out at the end, memory that is shared."""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastinit import fused, init
from fastinit.plan.current import current
from fastinit.plan.executor import KernelExecutor


def built() -> None:
    with fused(seed=1) as plan:
        model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16)).half()
        plan.add_root(model)
        plan.manifest()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_thousands_of_plans_leave_nothing_behind() -> None:
    for _ in range(200):
        built()
    gc.collect()
    objects, before = len(gc.get_objects()), resident()
    for _ in range(2000):
        built()
    gc.collect()
    assert len(gc.get_objects()) - objects < 100
    assert resident() - before < 8 << 20, "4 KiB of each plan"


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "half": lambda layer: layer.half(),
    "half and back": lambda layer: layer.half().float(),
    "deepcopy": copy.deepcopy,
    "deepcopies": lambda layer: nn.ModuleList(copy.deepcopy(layer) for _ in range(2)),
    "deepcopy of a deepcopy": lambda layer: copy.deepcopy(copy.deepcopy(layer)),
}


@pytest.mark.parametrize("how", COPIES)
def test_what_waits_to_be_copied_outlives_large_allocations(how: str) -> None:
    """The plan gives up memory that nobody holds, once much has been allocated."""
    models = []
    for size in (0, 1 << 20, 1 << 23):
        with fused(seed=1) as plan:
            model = COPIES[how](nn.Linear(64, 64))
            for _ in range(8):
                torch.empty(size)
            plan.add_root(model)
        models.append(model.state_dict())
    for others in models[1:]:
        for name, tensor in models[0].items():
            assert torch.equal(others[name], tensor), name


def test_memory_that_runs_out_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the allocator's own, the rest is written, and the next plan is as any."""
    words = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"

    def copy(self: KernelExecutor, target: Tensor, source: Tensor) -> None:
        raise RuntimeError(words)

    kept, beside = (torch.full((8,), torch.nan) for _ in range(2))

    def program() -> None:
        with fused(seed=2):
            init.normal_(kept)
            casts.append(kept.double())  # of memory that is held: it is filled, then copied
            init.normal_(beside)

    casts: list[Tensor] = []
    with monkeypatch.context() as patched:
        patched.setattr(KernelExecutor, "copy", copy)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            program()
    assert bool(kept.isfinite().all())
    assert current() is None
    assert bool(beside.isfinite().all())
    with fused(seed=2) as plan:
        model = nn.Linear(2, 2)
        plan.add_root(model)
    assert [tensor.status for tensor in plan.manifest().tensors] == ["filled", "filled"]


def test_memory_of_a_file_that_others_map(tmp_path: Path) -> None:
    path = str(tmp_path / "weights")
    mine, theirs = (torch.from_file(path, shared=True, size=1000) for _ in range(2))
    with fused(seed=3):
        init.normal_(mine)
    plain = torch.empty(1000)
    with fused(seed=3):
        init.normal_(plain)
    assert torch.equal(theirs, plain)
    shared = torch.empty(1000).share_memory_()
    with fused(seed=3):
        init.normal_(shared)
    assert torch.equal(shared, plain)
