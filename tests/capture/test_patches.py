"""The patches of torch: made once, undone by a function, and torch's own where no plan is open."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from versions import not_on_oldest

from fastinit import fused
from fastinit.capture import patches
from fastinit.capture.patches import PATCHES, Patch


@pytest.fixture
def undone() -> Iterator[None]:
    patches.undo()
    try:
        yield
    finally:
        patches.install()


def attributes() -> list[object]:
    return [getattr(patch.owner, patch.name) for patch in PATCHES]


def test_installing_twice_is_installing_once() -> None:
    patches.install()
    installed = attributes()
    patches.install()
    assert attributes() == installed


def test_undone_is_torchs_own(undone: None) -> None:
    eager = attributes()
    patches.install()
    assert all(ours is not torchs for ours, torchs in zip(attributes(), eager, strict=True))
    patches.undo()
    assert attributes() == eager


def test_what_somebody_else_has_put_there_since_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs() -> None:
        pass

    monkeypatch.setattr(torch.nn.init, "_no_grad_trunc_normal_", theirs)
    patches.undo()
    assert torch.nn.init._no_grad_trunc_normal_ is theirs
    monkeypatch.undo()
    patches.install()


def test_a_name_that_torch_lacks_is_left_alone() -> None:
    patch = Patch(torch.nn.init, "_no_such_helper_", "", "", lambda eager: eager)
    patch.install()
    patch.undo()
    assert not hasattr(torch.nn.init, "_no_such_helper_")


def test_each_says_what_it_is_for() -> None:
    assert all(len(patch.why) > 40 and patch.since for patch in PATCHES)


@not_on_oldest("its chain of operations is known without a patch")
def test_without_them_a_plan_does_not_see_it(undone: None) -> None:
    """What the patch of the truncated normal is for: a name that was imported earlier."""
    trunc_normal_ = nn.init.trunc_normal_
    outcomes = []
    for install in (lambda: None, patches.install):
        install()
        torch.manual_seed(0)
        with fused(seed=1) as plan:
            x = trunc_normal_(torch.empty(9))
        rules = {drawn.rule for tensor in plan.manifest().tensors for drawn in tensor.fills}
        outcomes.append((x, rules))
    (eager, unseen), (drawn, seen) = outcomes
    assert "trunc_normal" not in unseen
    assert seen == {"trunc_normal"}
    assert not torch.equal(eager, drawn)


@pytest.mark.parametrize("is_patched", [True, False])
def test_outside_a_plan_they_are_torchs(is_patched: bool, undone: None) -> None:
    if is_patched:
        patches.install()
    torch.manual_seed(0)
    x = nn.init.trunc_normal_(torch.empty(9))
    y, z = torch.zeros(3), torch.ones(3)
    torch.utils.swap_tensors(y, z)
    assert y.sum() == 3
    patches.undo()
    torch.manual_seed(0)
    assert torch.equal(x, nn.init.trunc_normal_(torch.empty(9)))


def test_a_second_import_takes_the_place_of_the_first() -> None:
    code = """
        import sys, torch, fastinit
        eager = torch.nn.init._no_grad_trunc_normal_._fastinit_eager
        for name in [name for name in sys.modules if name.partition(".")[0] == "fastinit"]:
            del sys.modules[name]
        import fastinit
        assert torch.nn.init._no_grad_trunc_normal_._fastinit_eager is eager
        with fastinit.fused(seed=0) as plan:
            x = torch.nn.init.trunc_normal_(torch.empty(9))
        [tensor] = plan.manifest().tensors
        assert [drawn.rule for drawn in tensor.fills] == ["trunc_normal"]
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_library_that_is_imported_within_a_plan_wraps_what_it_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers puts wrappers into torch.nn.init that call what it found there: once ours."""
    with fused():
        found = nn.init.zeros_
        wrapped: list[Tensor] = []

        def wrapper(tensor: Tensor) -> Tensor:
            wrapped.append(tensor)
            return found(tensor)

        monkeypatch.setattr(nn.init, "zeros_", wrapper)
        x, counter = torch.ones(3), torch.ones(3, dtype=torch.int64)
        nn.init.zeros_(x)
        nn.init.zeros_(counter)  # left to torch
    assert not x.any()
    assert not counter.any()
    assert any(tensor is x for tensor in wrapped)
    assert nn.init.zeros_ is wrapper
    monkeypatch.undo()
    assert torch.equal(found(torch.ones(2)), torch.zeros(2))
