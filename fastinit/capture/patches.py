"""The patches of torch that fastinit makes, all of them: what, why, and how they are undone.

No function mode sees what these functions do. Without an open plan, each behaves as torch's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor

from fastinit.capture import arguments
from fastinit.capture.watched import watched
from fastinit.kernels.distributions import TRUNC_NORMAL, warn_if_far
from fastinit.plan.current import current
from fastinit.plan.plan import Plan
from fastinit.plan.write import write
from fastinit.tensors import torch_private
from fastinit.tensors.parts import parts
from fastinit.tensors.torch_private import EAGER, unwatched

Function = Callable[..., Any]


@dataclass(frozen=True)
class Patch:
    """The replacement of one attribute of torch.

    Attributes:
        owner, name: the attribute.
        why: what a plan would miss without the patch.
        since: the oldest version of torch that it was tried with.
        around: takes torch's function and returns the one that replaces it.
    """

    owner: Any
    name: str
    why: str
    since: str
    around: Callable[[Function], Function]

    def install(self) -> None:
        """Replace the attribute, if torch has it and it is not replaced already."""
        found = getattr(self.owner, self.name, None)
        if found is None or getattr(found, _PATCH, None) is self:
            return
        eager = getattr(found, EAGER, found)  # under a patch of an earlier import of fastinit
        ours = self.around(eager)
        setattr(ours, EAGER, eager)
        setattr(ours, _PATCH, self)
        setattr(self.owner, self.name, ours)

    def undo(self) -> None:
        """Restore torch's attribute, unless other code has replaced it since."""
        eager = getattr(getattr(self.owner, self.name, None), EAGER, None)
        if eager is not None:
            setattr(self.owner, self.name, eager)


_PATCH = "_fastinit_patch"  # which patch put it there


Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Call = Callable[[Plan, Function, Args, Kwargs], Any]


def _in_plan(call: Call) -> Callable[[Function], Function]:
    """Return an `around` by which a call inside a plan is `call(plan, function, args, kwargs)`."""

    def around(eager: Function) -> Function:
        @functools.wraps(eager)
        def patched(*args: Any, **kwargs: Any) -> Any:
            plan = current()
            return eager(*args, **kwargs) if plan is None else call(plan, eager, args, kwargs)

        return patched

    return around


def _trunc_normal(plan: Plan, eager: Function, args: Args, kwargs: Kwargs) -> Any:
    def parsed(
        tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Any = None
    ) -> tuple[Tensor, tuple[float, float, float, float], Any]:
        return tensor, (mean, std, a, b), generator

    tensor, parameters, generator = parsed(*args, **kwargs)
    if not write(tensor, TRUNC_NORMAL, parameters, generator):
        return eager(*args, **kwargs)
    warn_if_far(*parameters)
    return tensor


def _swap_tensor_impl(plan: Plan, eager: Function, args: Args, kwargs: Kwargs) -> Any:
    with unwatched():
        plan.finish()
        old = [(tensor, plan.retire(tensor)) for tensor in args]
        eager(*args, **kwargs)
        for tensor, storage in old:
            plan.replaced(tensor, storage)


def _swap_tensors(plan: Plan, eager: Function, args: Args, kwargs: Kwargs) -> Any:
    with unwatched():
        plan.finish()
        if plan.recorder is not None:
            plan.recorder.hold_no_views()
    return eager(*args, **kwargs)


def _set(plan: Plan, eager: Function, args: Args, kwargs: Kwargs) -> Any:
    if plan.recorder is None:
        return eager(*args, **kwargs)
    with unwatched():
        plan.flush(arguments.storages((args, kwargs)))
        old = plan.retire(args[0])
        eager(*args, **kwargs)
        plan.replaced(args[0], old)
    return args[0]


def _reads_anything(plan: Plan, eager: Function, args: Args, kwargs: Kwargs) -> Any:
    plan.finish()  # scripted modules have parameters of their own
    return watched(plan, eager, args, kwargs)


def _collective(plan: Plan, eager: Function, args: Args, kwargs: Kwargs) -> Any:
    if plan.sharded.loans:
        with unwatched():
            plan.sharded.show(arguments.storages((args, kwargs)))
    plan.execute_first((args, kwargs))
    with unwatched():
        for tensor in arguments.tensors((args, kwargs)):
            for part in parts(tensor) or ():
                plan.computed(part)  # autograd's versions do not tell what is received
    return eager(*args, **kwargs)


def _escapes(plan: Plan, eager: Function, args: Args, kwargs: Kwargs) -> Any:
    plan.execute_first((args, kwargs))
    for tensor in arguments.tensors((args, kwargs)):
        plan.escape(tensor)
    return eager(*args, **kwargs)


def _in_order_of_streams(plan: Plan, eager: Function, args: Args, kwargs: Kwargs) -> Any:
    with unwatched():
        plan.launch_waiting()
    return eager(*args, **kwargs)


def _of_default_generator(method: str) -> Call:
    """The method of torch's default generator is that of the plan's, in a plan with a seed."""

    def call(plan: Plan, eager: Function, args: Args, kwargs: Kwargs) -> Any:
        if plan.draws is None or plan.draws.is_default:
            return eager(*args, **kwargs)
        if method == "manual_seed":
            if not (args or "seed" in kwargs):
                return eager(*args, **kwargs)  # raises
            return plan.draws.reseed(int(args[0] if args else kwargs["seed"]))
        return getattr(plan.draws.generator(torch.device("cpu")), method)(*args, **kwargs)

    return call


_OF_DEFAULT_GENERATOR = {
    "manual_seed": "manual_seed",
    "seed": "seed",
    "initial_seed": "initial_seed",
    "get_rng_state": "get_state",
    "set_rng_state": "set_state",
}


def _collectives() -> Iterator[Patch]:
    """Yield patches of what torch.distributed calls with tensors: bindings, which no mode sees."""
    c10d = torch_private.c10d()
    if c10d is None:
        return
    why = "A collective reads and writes tensors; a binding, it is seen by no mode."
    for owner in (c10d.ProcessGroup, c10d.Backend):
        for name in COLLECTIVES.split():
            if hasattr(owner, name):
                yield Patch(owner, name, why, "2.13", _in_plan(_collective))
    for owner in (torch.distributed, c10d):  # by which DDP makes ranks equal
        yield Patch(owner, "_broadcast_coalesced", why, "2.13", _in_plan(_collective))


COLLECTIVES = """
    _allgather_base _reduce_scatter_base allgather allgather_coalesced
    allgather_into_tensor_coalesced allreduce allreduce_coalesced alltoall alltoall_base broadcast
    gather recv recv_anysource reduce reduce_scatter reduce_scatter_tensor_coalesced scatter send
    all_gather_single all_gather_single_coalesced all_to_all_single reduce_scatter_single
    reduce_scatter_single_coalesced
"""

PATCHES = (
    Patch(
        Tensor,
        "set_",
        "A tensor gets other memory, which no mode sees in newer versions of torch.",
        "2.13",
        _in_plan(_set),
    ),
    Patch(
        torch.nn.init,
        "_no_grad_trunc_normal_",
        "torch.nn.init.trunc_normal_ is the one initialiser that no mode sees whole: it reads its "
        "draws back as it makes them. It looks this helper up when it is called, however it was "
        "imported itself.",
        "2.6",
        _in_plan(_trunc_normal),
    ),
    Patch(
        torch.utils,
        "swap_tensors",
        "It refuses tensors that others refer to, as a view does that a plan holds.",
        "2.13",
        _in_plan(_swap_tensors),
    ),
    Patch(
        torch._C,
        "_swap_tensor_impl",
        "Two tensors exchange their memory, which no mode sees, and take nothing pending along. "
        "torch.utils.swap_tensors looks this helper up when it is called.",
        "2.6",
        _in_plan(_swap_tensor_impl),
    ),
    *(
        Patch(
            owner,
            "__call__",
            "TorchScript reads and writes tensors; a compiled function, it is seen by no mode.",
            "2.13",
            _in_plan(_reads_anything),
        )
        for owner in torch_private.SCRIPTED
    ),
    *(
        Patch(
            owner,
            name,
            "It reads scripted modules or tensors; a binding, it is seen by no mode.",
            "2.13",
            _in_plan(_reads_anything),
        )
        for owner, names in torch_private.READERS
        for name in names.split()
        if hasattr(owner, name)
    ),
    *_collectives(),
    *(
        Patch(
            owner,
            "to_dlpack",
            "Its capsule lets others read and write the memory; a binding, it is seen by no mode.",
            "2.13",
            _in_plan(_escapes),
        )
        for owner in (torch, torch.utils.dlpack)
    ),
    Patch(
        torch.cuda.CUDAGraph,
        "capture_begin",
        "A fill that waits when a capture begins would be launched within it, and again by every "
        "replay.",
        "2.13",
        _in_plan(_in_order_of_streams),
    ),
    Patch(
        torch.cuda.Event,
        "record",
        "The event would not cover a fill that waits; `wait_stream` and `record_event` end here.",
        "2.13",
        _in_plan(_in_order_of_streams),
    ),
    *(
        Patch(
            owner,
            name,
            "In a plan with a seed, random functions draw from the plan's generators.",
            "2.13",
            _in_plan(_of_default_generator(method)),
        )
        for owner in (torch, torch.random)
        for name, method in _OF_DEFAULT_GENERATOR.items()
    ),
)


def install() -> None:
    """Install all patches; those already installed stay."""
    for patch in PATCHES:
        patch.install()


def undo() -> None:
    """Undo all patches."""
    for patch in PATCHES:
        patch.undo()
