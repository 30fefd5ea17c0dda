"""Fills of a tensor on a GPU by other libraries, where they are installed: cuRAND by CuPy, Triton,
and torch's stateless functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.lib.rules import Rule

Run = Callable[[], object]


def rivals(rule: Rule, tensor: Tensor) -> tuple[dict[str, Run], dict[str, str]]:
    """Return by name what fills the tensor by the same distribution, each of which has run once;
    and why others do not."""
    found, missing = {}, {}
    makers = {"torch.func._random": _functional, "cuRAND": _curand, "Triton": _triton}
    for name, make in makers.items():
        try:
            run = make(rule, tensor)
            if run is not None:
                run()
                if tensor.is_cuda:
                    torch.cuda.synchronize()  # a failure is its own
                found[name] = run
        except Exception as error:  # of another library: it must not end a benchmark
            missing[name] = f"{type(error).__name__}: {error}"[:200]
    return found, missing


def _functional(rule: Rule, tensor: Tensor) -> Run | None:
    """torch.func._random, where this torch has it: experimental, and stateless too."""
    random = importlib.import_module("torch.func._random")
    key = random.key(1, device=tensor.device)
    if rule.function == "uniform_":
        low, high = rule.arguments["a"], rule.arguments["b"]
        return partial(random.uniform_, key, tensor, low=low, high=high)
    if rule.function == "normal_":
        return partial(random.normal_, key, tensor, std=rule.arguments["std"])
    return None


def _curand(rule: Rule, tensor: Tensor) -> Run | None:
    """cuRAND's host interface, with Philox: uniforms in (0, 1], in fp32 and fp64 alone."""
    kinds = {torch.float32: "", torch.float64: "Double"}
    if rule.function not in ("uniform_", "normal_") or tensor.dtype not in kinds:
        return None
    importlib.import_module("cupy")  # first: it finds the libraries
    curand: Any = importlib.import_module("cupy_backends.cuda.libs.curand")
    generator = curand.createGenerator(curand.CURAND_RNG_PSEUDO_PHILOX4_32_10)
    curand.setStream(generator, torch.cuda.current_stream(tensor.device).cuda_stream)
    what = "Uniform" if rule.function == "uniform_" else "Normal"
    generate = getattr(curand, f"generate{what}{kinds[tensor.dtype]}")
    given = () if what == "Uniform" else (0.0, rule.arguments["std"])
    return partial(generate, generator, tensor.data_ptr(), tensor.numel(), *given)


def _triton(rule: Rule, tensor: Tensor) -> Run | None:
    """Triton's rand and randn, four to a thread."""
    if rule.function not in ("uniform_", "normal_") or tensor.dtype is torch.float64:
        return None
    kernels: Any = importlib.import_module("bench.lib.triton_kernels")
    is_normal = rule.function == "normal_"
    scale = rule.arguments["std"] if is_normal else rule.arguments["b"] - rule.arguments["a"]
    shift = 0.0 if is_normal else rule.arguments["a"]
    kernel = kernels.normal if is_normal else kernels.uniform
    blocks = -(-tensor.numel() // (4 * kernels.BLOCK))
    return lambda: kernel[(blocks,)](tensor, tensor.numel(), 1, shift, scale)
