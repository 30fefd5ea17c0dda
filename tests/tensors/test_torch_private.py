"""Torch's private names: this torch has all of them, and fastinit lives without any of them."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from versions import not_on_oldest

import fastinit
from fastinit.tensors import torch_private
from fastinit.tensors.torch_private import NAMES

PACKAGE = Path(fastinit.__file__).parent


@not_on_oldest("tensors have no exchange table")
def test_this_torch_has_all_of_them() -> None:
    lost = torch_private.missing()
    assert not lost, "\n".join(f"{name.path}: {name.without}" for name in lost)


def test_they_are_in_one_file() -> None:
    """Nothing else reaches into `torch._...`; modules' registries are named in the same file."""
    registries = {"_modules", "_parameters", "_buffers", "_apply"}
    registries |= {"_load_from_state_dict", "_load_state_dict_post_hooks"}
    for file in PACKAGE.rglob("*.py"):
        if file.name == "torch_private.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            path = ast.unparse(node)
            if path.startswith(("torch.", "nn.", "Tensor.")):
                private = [part for part in path.split(".")[1:] if part.startswith("_")]
                public = all(part.startswith("__") for part in private)
                # The owner of a patch, whose attribute is named in NAMES.
                assert public or path == "torch._C", f"{file.name}, line {node.lineno}: {path}"
            elif node.attr in ("_version", "_cdata", "_local_tensor", "_backward_hooks"):
                raise AssertionError(f"{file.name}, line {node.lineno}: {path}")
            else:
                listed = node.attr in registries
                used = any(name.path.endswith(f".{node.attr}") for name in NAMES)
                assert used or not listed, f"{node.attr} is not in NAMES"


RUN = """
    import pkgutil, sys, warnings
    import torch

    def without(path):
        module, _, attributes = path.partition(":")
        owner, _, name = attributes.rpartition(".")
        place = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
        delattr(place, name)

    without(%r)
    import fastinit
    from torch import nn
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with fastinit.fused() as plan:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).half()
        nn.init.trunc_normal_(model[0].weight)
    net = fastinit.Sequential(nn.Linear(2, 2), init_cfg=dict(type="Normal", layer="Linear"))
    net.init_weights()
    assert model[0].weight.std() > 0.1 and net[0].weight.std() > 0
    fastinit.show_config()
"""
# What can be taken from torch without torch itself failing: names of its Python side, and of its C
# side those that nothing else calls in this program.
REMOVABLE = [
    "torch:_C._functorch.is_functorch_wrapped_tensor",
    "torch:Tensor.__dlpack_c_exchange_api__",
    "torch:_C._storage_Use_Count",
    "torch:_C._swap_tensor_impl",
    "torch:_C._disabled_torch_dispatch_impl",
    "torch.distributed.tensor.placement_types:_StridedShard",
]


@pytest.mark.parametrize("path", REMOVABLE)
def test_one_that_is_gone_is_lived_without(path: str) -> None:
    """Import, `fused` and `init_weights` work, and `show_config` says what is lost."""
    assert path in {name.path for name in NAMES}
    if path in {name.path for name in torch_private.missing()}:
        pytest.skip("this torch never had it")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN % path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [known] = [name for name in NAMES if name.path == path]
    assert path.replace(":", ".") in done.stdout
    assert known.without in done.stdout
    if known.is_required:
        assert "torch.nn.init is used instead" in done.stdout


@not_on_oldest("tensors have no exchange table")
def test_one_that_is_gone_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`missing` looks each time, so that its answer is true."""
    import torch

    monkeypatch.delattr(torch._C, "_swap_tensor_impl")
    assert [name.path for name in torch_private.missing()] == ["torch:_C._swap_tensor_impl"]
    assert torch_private.why_not_native() == ""
    monkeypatch.delattr(torch._C._functorch, "is_functorch_wrapped_tensor")
    assert "is_functorch_wrapped_tensor" in torch_private.why_not_native()
