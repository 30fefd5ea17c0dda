"""A checkpoint is loaded whole, or the model is as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from modules import copied, same
from opaque import Opaque
from torch import Tensor, nn

import fastinit
from fastinit.checkpoint.load import load_pretrained

BOTH = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}


class Extra(nn.Linear):
    """With state beside its tensors."""

    state = "old"

    def get_extra_state(self) -> dict[str, str]:
        return {"state": self.state}

    def set_extra_state(self, state: Any) -> None:
        self.state = state["state"]


class Raises(nn.Linear):
    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        raise LookupError


def raises_afterwards() -> nn.Module:
    net = nn.Linear(2, 2)

    def hook(module: nn.Module, keys: Any) -> None:
        raise LookupError

    net.register_load_state_dict_post_hook(hook)
    return net


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], dict[str, Any]]] = {
    "something is missing": (lambda: nn.Linear(2, 2), {"weight": BOTH["weight"]}, {"strict": True}),
    "something is left": (
        lambda: Extra(2, 2),
        {**BOTH, "_extra_state": {"state": "new"}, "more": torch.ones(1)},
        {"strict": True},
    ),
    "another shape": (
        lambda: nn.Linear(2, 2),
        {**BOTH, "bias": torch.ones(3)},
        {"strict": True},
    ),
    "sparse": (
        lambda: nn.Linear(2, 2),
        {**BOTH, "weight": BOTH["weight"].to_sparse_csr()},
        {"strict": True},
    ),
    "only a counter fits": (
        lambda: nn.BatchNorm1d(2),
        {"num_batches_tracked": torch.tensor(9), "x": torch.ones(2)},
        {},
    ),
    "loading code raises": (
        lambda: nn.Sequential(nn.Linear(2, 2), Raises(2, 2)),
        {f"{n}.{name}": value for n in (0, 1) for name, value in BOTH.items()},
        {},
    ),
    "a hook raises": (raises_afterwards, BOTH, {}),
}


@pytest.mark.parametrize("around", ["alone", "fused", "init_weights"])
@pytest.mark.parametrize("case", CASES)
def test_an_error_leaves_the_model(case: str, around: str, backend: str, tmp_path: Path) -> None:
    make, content, given = CASES[case]
    torch.save(content, tmp_path / "a.pth")
    net = make()
    rule = {"type": "Pretrained", "checkpoint": str(tmp_path / "a.pth"), **given}

    def fails() -> None:
        with pytest.raises((RuntimeError, LookupError)):
            fastinit.initialize(net, rule)

    class Outer(fastinit.BaseModule):
        def init_weights(self) -> None:
            super().init_weights()
            fails()

    before = copied(net)
    if around == "alone":
        fails()
    elif around == "fused":
        with fastinit.fused():
            fails()
    else:
        outer = Outer()
        outer.net = net
        outer.init_weights()
    assert same(copied(net), before)
    assert getattr(net, "state", "old") == "old"


def test_extra_state_is_set(tmp_path: Path) -> None:
    torch.save({**BOTH, "_extra_state": {"state": "new"}}, tmp_path / "a.pth")
    net = Extra(2, 2)
    load_pretrained(net, tmp_path / "a.pth", strict=True)
    assert net.state == "new"
    assert "set_extra_state" not in vars(net)
    assert bool((net.weight == 1).all())


def test_extra_state_is_set_by_what_an_instance_has(tmp_path: Path) -> None:
    torch.save({**BOTH, "_extra_state": {"state": "new"}}, tmp_path / "a.pth")
    net, told = Extra(2, 2), []
    net.set_extra_state = told.append  # type: ignore[method-assign]
    load_pretrained(net, tmp_path / "a.pth", strict=True)
    assert told == [{"state": "new"}]
    net.set_extra_state(1)
    assert told[1:] == [1]
    with pytest.raises(RuntimeError):
        load_pretrained(nn.Sequential(net, nn.Linear(2, 2)), tmp_path / "a.pth", strict=True)
    assert len(told) == 2


def test_code_that_reads_by_what_is_not_known(tmp_path: Path) -> None:
    class Reads(nn.Linear):
        def _load_from_state_dict(self, *args: Any) -> None:
            super()._load_from_state_dict(*args)
            self.seen = Opaque(self.weight.detach()) + 1

    torch.save(BOTH, tmp_path / "a.pth")
    net = Reads(2, 2)
    load_pretrained(net, tmp_path / "a.pth")
    assert net.seen.tolist() == [[2, 2], [2, 2]]


def test_code_that_reads_what_is_loaded(backend: str, tmp_path: Path) -> None:
    class Doubles(nn.Linear):
        def _load_from_state_dict(self, *args: Any) -> None:
            super()._load_from_state_dict(*args)
            with torch.no_grad():
                self.bias.copy_(self.weight.sum(1) * 2)

    torch.save(BOTH, tmp_path / "a.pth")
    net = Doubles(2, 2)
    load_pretrained(net, tmp_path / "a.pth")
    assert net.bias.tolist() == [4, 4]


def test_a_hook_that_moves_what_is_loaded(backend: str, tmp_path: Path) -> None:
    """As FSDP's does in some versions of torch."""

    def move(module: nn.Module, keys: Any) -> None:
        larger = torch.zeros(4, 2)
        larger[:2].copy_(module.weight.detach())
        module.weight.data = larger[:2]

    net = nn.Linear(2, 2)
    net.register_load_state_dict_post_hook(move)
    torch.save(BOTH, tmp_path / "a.pth")
    load_pretrained(net, tmp_path / "a.pth")
    assert net.weight.tolist() == [[1, 1], [1, 1]]
    assert net.bias.tolist() == [1, 1]


def test_the_file_is_written_again_in_the_same_plan(tmp_path: Path) -> None:
    """What is copied is in the file, which torch.save makes empty first."""
    code = """
import sys, torch, fastinit
net = torch.nn.Linear(300, 300)
torch.save(net.state_dict(), sys.argv[1])
before = net.weight.clone()
with fastinit.fused(seed=0):
    fastinit.initialize(net, dict(type="Pretrained", checkpoint=sys.argv[1]))
    torch.save(net.state_dict(), sys.argv[1])
assert torch.equal(net.weight, before)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.pth")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)


def compiled() -> nn.Module:
    return torch.compile(nn.Linear(2, 2))  # type: ignore[return-value]


def compiled_inside() -> nn.Module:
    parts = Parts()
    parts.a = torch.compile(parts.a)  # type: ignore[assignment]
    return parts


def checkpointed_inside() -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    parts = Parts()
    parts.a = checkpoint_wrapper(parts.a)
    return parts


@pytest.mark.parametrize("make", [compiled, compiled_inside, checkpointed_inside])
@pytest.mark.parametrize("bare", [False, True])
def test_wrapped_modules_load_what_they_save(
    make: Callable[[], nn.Module], bare: bool, tmp_path: Path
) -> None:
    net = make()
    state: dict[str, Tensor] = {k: torch.full_like(v, 3) for k, v in net.state_dict().items()}
    if bare:
        state = {k.replace("_orig_mod.", ""): v for k, v in state.items()}
    torch.save(state, tmp_path / "a.pth")
    load_pretrained(net, tmp_path / "a.pth", strict=True)
    assert all(bool((p == 3).all()) for p in net.parameters())


def test_names_that_fit_and_nothing_else(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3, 2)}, tmp_path / "a.pth")
    with pytest.raises(RuntimeError, match=r"although names do:(?s:.)*size mismatch for weight"):
        load_pretrained(nn.Linear(2, 2), tmp_path / "a.pth")
    with torch.device("meta"):
        meta = nn.Linear(2, 2).state_dict()
    torch.save(meta, tmp_path / "a.pth")
    with pytest.raises(RuntimeError, match=r"although names do:(?s:.)*meta"):
        load_pretrained(nn.Linear(2, 2), tmp_path / "a.pth")


def test_safetensors_with_headers_of_any_length(tmp_path: Path) -> None:
    """Its first byte is that of the length, and may be that of another format."""
    firsts = set()
    for n in [*range(600, 900), 31520 - 96, 23328 - 96]:
        path = tmp_path / "blob"
        safetensors.torch.save_file({"w": torch.ones(2)}, path, metadata={"m": "x" * n})
        firsts.add(path.read_bytes()[0])
        net = nn.Module()
        net.w = nn.Parameter(torch.zeros(2))
        load_pretrained(net, path)
        assert net.w.tolist() == [1, 1]
    assert 0x80 in firsts


def test_of_a_folder_only_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = nn.Linear(4, 4)
    other = {"exp_avg": torch.ones(4, 4), "exp_avg_sq": torch.ones(4, 4)}
    dcp.save({"model": linear.state_dict(), "optim": other}, checkpoint_id=tmp_path / "a")
    from fastinit.checkpoint import distributed

    read: list[str] = []
    load = distributed._load_state_dict

    def noted(flat: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        read.extend(flat)
        load(flat, *args, **kwargs)

    monkeypatch.setattr(distributed, "_load_state_dict", noted)
    found = nn.Linear(4, 4)
    load_pretrained(found, tmp_path / "a")
    assert sorted(read) == ["model.bias", "model.weight"]
    assert torch.equal(found.weight, linear.weight)
