"""Models of torchtitan at debug size; Triton may be missing."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import MagicMock

from torch import nn

FAMILIES = ("llama3", "deepseek_v3", "qwen3")


def constructors() -> dict[str, Callable[[], nn.Module]]:
    """Every family by `torchtitan/name`."""
    return {f"torchtitan/{name}": of(f"torchtitan/{name}") for name in FAMILIES}


def of(name: str) -> Callable[[], nn.Module]:
    """Return the constructor of one model."""
    _stand_in_for_triton()
    return partial(_made, name.partition("/")[2])


def _made(family: str) -> nn.Module:
    module = importlib.import_module(f"torchtitan.models.{family}")
    configs: Any = next(getattr(module, name) for name in dir(module) if name.endswith("_configs"))
    config = configs["debugmodel"]
    known = {"attn_backend": "flex", "moe_comm_backend": "standard"}
    wanted = inspect.signature(config).parameters
    model: nn.Module = config(**{k: v for k, v in known.items() if k in wanted}).build()
    return model


def _stand_in_for_triton() -> None:
    """Put modules that have every name in the place of Triton's, which kernels are defined with."""
    if importlib.util.find_spec("triton") is not None:
        return
    # What asks whether there is a Triton has to do so before.
    for name in (
        "torch._dynamo",
        "torch._inductor.compile_fx",
        "torch._inductor.standalone_compile",
    ):
        importlib.import_module(name)
    for name in ("triton", "triton.language"):
        module = MagicMock(name=name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        module.jit = lambda function=None, **_: function or (lambda other: other)
        sys.modules[name] = module
