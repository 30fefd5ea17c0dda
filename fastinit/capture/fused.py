"""`fused`: whatever code fills inside the block is recorded, and executed together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastinit.capture.mode import Capture
from fastinit.kernels.native import is_native
from fastinit.plan import seeds
from fastinit.plan.account import Account
from fastinit.plan.current import active, current
from fastinit.plan.plan import Plan


@contextmanager
def fused(seed: int | None = None) -> Iterator[Plan]:
    """Record every fill inside the block, and execute them together at its end.

    Random and constant fills of tensors wait: `torch.nn.init`'s functions, however they were
    imported, `Tensor.normal_`, `uniform_`, `fill_`, `zero_`, and fastinit's. Of fills of the same
    memory the last one counts. Moves and casts (`.to`, `.half()`) of a tensor that is then given up
    take its fills along. Whatever else happens to a tensor, what it waits for is executed
    first, so that code computes what it would have computed. An exception that leaves the block
    does not stop what is pending: every tensor is as the code left it.

    Tensors draw from streams by the names that they have in a module whose `init_weights` is called
    inside, or which `build` returns; others by their number, in the order of execution.

    The block belongs to this thread. Inside another one, or inside an `init_weights`, it joins the
    plan that is there.

    Args:
        seed: 64-bit key of all fills, for the same values each time. PyTorch's own generators are
            seeded from it meanwhile, and restored. By default drawn from PyTorch's default
            generator.

    Yields:
        The plan: `plan.table()` and `plan.to_json()` tell what is written by which
        rule. (The plan of an `init_weights` keeps no account of that.)

    Raises:
        TypeError: a seed that is no integer.
        ValueError: a seed outside [0, 2^64), or another than that of the plan around it.

    Examples:
        >>> with fastinit.fused(seed=0) as plan:
        ...     model = Transformer(config)
        >>> rich.print(plan.table())
    """
    seed = seeds.checked(seed)
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
        yield outer
        return
    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(seeds.governing_torch(seed))
        plan = Plan(is_native(), seed, account=Account())
        stack.enter_context(active(plan))
        try:
            with Capture(plan):
                yield plan
        finally:
            plan.finish()
