"""Torch's bindings that take tensors: seen, patched, without a read, or told of in the docs."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from fastinit.capture.effects import Effect
from fastinit.capture.patches import PATCHES

PAGE = (Path(__file__).parents[2] / "docs" / "what-a-plan-sees.md").read_text(encoding="utf-8")

# They tell of a tensor, wrap it or change what torch knows of it, and read no element.
READS_NOTHING = [
    r"torch\._C\._(add|is|remove)_cached_tensor",
    r"torch\._C\._(commit_update|replace_|propagate_xla_data|is_cow_tensor|non_sym_sizes)",
    r"torch\._C\._(data_address|tensor_impl_raw_handle|has_storage|storage_address|storage_id)",
    r"torch\._C\._(dispatch_\w+|get_tensor_metadata|set_tensor_metadata|set_conj|set_neg)",
    r"torch\._C\._(select_(batch_norm|conv)_backend|conv_determine_backend_memory_format)",
    r"torch\._C\._(get_cudnn_batch_norm_reserve_space_size|group_tensors_by_device_and_dtype)",
    r"torch\._C\._(set_\w+_mutable_data_ptr|unsafe_reset_storage)",
    # of TorchScript's compiler, which looks at shapes and graphs
    r"torch\._C\._(get|set)_value_trace",
    r"torch\._C\._(jit_\w+|propagate\w*_shapes|propagate_and_assign_input_shapes)",
    r"torch\._C\._te\.\w+",
    r"torch\._C\._autograd\.\w+",
    r"torch\._C\._functionalization\..*",
    r"torch\._C\._functorch\..*",
    r"torch\._C\._dynamo\.guards\.\w+",
    r"torch\._C\.cpp\.OrderedTensorDict\.__getitem__",
    r"torch\._C\._distributed_c10d\._(compute_bucket_assignment_by_size|register_work)",
    r"torch\._C\._distributed_c10d\._verify_params_across_processes",  # shapes
    r"torch\._C\._distributed_c10d\._make_nccl_premul_sum",  # a factor
    r"torch\._C\._distributed_c10d\._SymmetricMemory\.is_symm_mem_tensor",
]

# What the page says of them, and their names.
UNSEEN = {
    "AOTInductor's runners": r"torch\._C\._aoti.*",
    "lazy tensors": r"torch\._C\._lazy.*",
    "RPC": r"torch\._C\._distributed_rpc\..*",
    "symmetric memory": r"torch\._C\._distributed_c10d\._SymmetricMemory\..*",
    "DDP's": r"torch\._C\._distributed_c10d\.(Reducer|GradBucket)\..*",
    "Other extensions' bindings": r"torch\._C\._save_parameters",
    # Called by the methods of ProcessGroup, which are patched, or by tests.
    "`ProcessGroup`": r"torch\._C\._distributed_c10d\.(FakeProcessGroup|_ProcessGroupWrapper)\..*",
}


def bindings() -> dict[str, Any]:
    """The functions and methods in torch._C whose signature has a tensor, by path."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    ahead: list[tuple[str, Any]] = [("torch._C", torch._C)]
    while ahead:
        path, owner = ahead.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        for name in dir(owner):
            value = getattr(owner, name, None)
            inner = getattr(value, "__module__" if isinstance(value, type) else "__name__", None)
            if isinstance(value, (type, types.ModuleType)):
                if str(inner).startswith("torch._C"):
                    ahead.append((f"{path}.{name}", value))
            elif callable(value) and _takes_tensors(name, getattr(value, "__doc__", None) or ""):
                found[f"{path}.{name}"] = value
    return found


def _takes_tensors(name: str, text: str) -> bool:
    if "Overloaded function" in text:
        return "torch.Tensor" in text
    return text.startswith(f"{name}(") and "torch.Tensor" in text.split("->")[0]


@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="bindings of torch 2.13")
def test_every_binding_is_known() -> None:
    patched = {(id(patch.owner), patch.name) for patch in PATCHES}
    unknown = []
    for path in bindings():
        owner: Any = torch
        for part in path.split(".")[1:-1]:
            owner = getattr(owner, part)
        is_patched = (id(owner), path.rpartition(".")[2]) in patched
        patterns = [*READS_NOTHING, *UNSEEN.values()]
        if not is_patched and not any(re.fullmatch(pattern, path) for pattern in patterns):
            unknown.append(path)
    assert not unknown, "a binding that takes tensors is neither seen nor told of"


def test_the_page_tells_of_what_is_unseen_of_every_effect_and_of_every_patch() -> None:
    assert all(what in PAGE for what in UNSEEN)
    assert all(f"| {effect.name} |" in PAGE for effect in Effect)
    for patch in PATCHES:
        owner = getattr(patch.owner, "__name__", "")
        is_collective = owner.rpartition(".")[2] in ("ProcessGroup", "Backend")
        assert is_collective or patch.name in PAGE, f"{owner}.{patch.name}"
