"""`fused`: a block whose fills are recorded, and executed together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fastinit.capture.mode import capturing
from fastinit.kernels.native import is_native
from fastinit.plan import seeds
from fastinit.plan.account import Account
from fastinit.plan.current import current
from fastinit.plan.naming import name_again
from fastinit.plan.plan import Plan
from fastinit.plan.roots import warn_of_repetition
from fastinit.tensors.walk import named_tensors, walk
from fastinit.warning import NotInitializedWarning


@contextmanager
def fused(
    seed: int | None = None, *, root: nn.Module | None = None, prefix: str = ""
) -> Iterator[Plan]:
    """Record every fill inside the block, and execute them together at its end.

    Random and constant fills wait: the functions of `torch.nn.init`, however they were imported,
    those of fastinit, and `Tensor.normal_`, `uniform_`, `fill_` and `zero_`. A later fill of the
    same memory replaces an earlier one. Moves and casts (`.to`, `.half()`) of a tensor that is then
    given up take its fills along. Before anything else reads or changes a tensor, its fills are
    executed, so that code computes as it would without the block. An exception that leaves the
    block does not drop what is pending: every tensor is as the code left it. On the torch backend
    every fill is executed at once, and the plan's account is empty.

    A tensor draws from the stream of its name in `root`, in a module whose `init_weights` is called
    inside, or which `build` returns. A tensor without a name draws from a stream numbered in order
    of execution, so that its values depend on what else the block does.

    DTensors are filled as parts of the whole: a shard has, bit for bit, the values that the whole
    would have there. Code that computes with one gets the whole in ordinary memory, one tensor at a
    time, and each rank keeps its part. Without a seed the ranks take that of rank 0: all of them
    have to reach the first DTensor of the block.

    The block belongs to this thread, and to this context: asyncio tasks that run meanwhile have no
    part in it, unless they were started inside. Inside another one, or inside an `init_weights`, it
    joins the plan that is open there.

    Args:
        seed: integer in [0, 2^64), the Philox key of every fill that brings no `generator=`.
            PyTorch's random functions (`torch.randn`, `bernoulli_`, dropout, ...) draw from
            generators of the plan that it seeds, too, which `torch.manual_seed` and
            `torch.get_rng_state` then mean; PyTorch's default ones stay as they are, and other
            threads may draw from them meanwhile. By default the key is drawn from PyTorch's
            default CPU generator.
        root: a module whose parameters exist already. With it and a seed, its own initialisation
            gives bit for bit what `build` and `materialize` give.
        prefix: stands before every name, for parts that are built apart (stages of a pipeline, the
            towers of one model) and must not repeat each other's values.

    Yields:
        The plan, which keeps an account: `plan.table()` and `plan.to_json()` list the fills of each
        tensor. (A plan that an `init_weights` opened keeps none.)

    Raises:
        TypeError: a seed that is no integer, a root that is no module.
        ValueError: a seed outside [0, 2^64), different from that of the plan around, or from that
            of other ranks that hold shards of the same parameters; a DTensor's placement other than
            Shard and Replicate; at the end of the block, `fan_groups` that do not fit a tensor.

    Examples:
        >>> with fastinit.fused(seed=0) as plan:
        ...     model = Transformer(config)
        >>> rich.print(plan.table())

        >>> with fastinit.fused(seed=0, root=model):
        ...     model.apply(init_weights)
    """
    seed = seeds.checked(seed)
    if root is not None:
        if not isinstance(root, nn.Module):
            raise TypeError(f"fused: root must be a module, got a {type(root).__name__}")
        warn_of_repetition("fused", root, seed, prefix, stacklevel=4)  # past contextlib
    outer = current()
    if outer is not None:
        if seed is not None and seed != outer.explicit_seed:
            raise ValueError(
                f"seed={seed} inside a plan "
                + (
                    f"whose seed is {outer.explicit_seed}"
                    if outer.explicit_seed is not None
                    else "whose seed was drawn"
                )
                + "; give it to the outermost plan only"
            )
        with outer.scope.prefixed(prefix):
            if root is not None:
                outer.add_root(root)
            yield outer
        return
    plan = Plan(is_native(), seed, account=Account(), prefix=prefix)
    try:
        if root is not None:
            plan.add_root(root)
        with capturing(plan):
            yield plan
        if root is not None:
            _warn_of_meta(root)
    finally:
        try:
            name_again(plan)
            plan.finish(is_end=True)
        finally:
            plan.close()


def _warn_of_meta(root: nn.Module) -> None:
    """Warn of what the block has filled to no effect."""
    names = [name for name, tensor in named_tensors(walk(root)) if tensor.is_meta]
    if names:
        warnings.warn(
            f"fused: {len(names)} tensors of {type(root).__name__} are on meta and got no values, "
            f"{names[0]} first; call to_empty(device=...) before the block, or use build(fn, "
            "device='meta') and materialize",
            NotInitializedWarning,
            stacklevel=4,  # past contextlib
        )
