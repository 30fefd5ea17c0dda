"""What other code does to tensors while a plan is open.

A `TorchFunctionMode` sees every call of torch's Python API with its arguments. Each call is one of:

- a fill (`normal_`, `uniform_`, `fill_`, `zero_`, `torch.nn.init`): recorded;
- a look at metadata, or a view: passed through, what is pending stays pending;
- a move to a device or a dtype: what is pending goes along, if the original is given up;
- `copy_` over a whole tensor: what was pending for it is forgotten;
- the backward pass: everything is executed first;
- a way out of torch's sight (`numpy`, `data_ptr`): executed first, and never deferred again;
- anything else: what it can read is executed first.

So code that runs inside a plan computes what it would have computed eagerly. What the mode does not
see are other threads, TorchScript and `torch.utils.dlpack.to_dlpack`: they find what is in memory.
While a plan is open, code compiled by torch.compile runs as it is written, in other threads too.
Autograd learns of a fill when it is executed, which the backward pass sees to; a node of the graph
that is called directly does not.
"""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastinit.capture import effects as calls
from fastinit.capture.effects import Function
from fastinit.kernels import fills
from fastinit.kernels.backends import is_native
from fastinit.plan import plan as plans


class _Compiler:
    """torch.compile's stance, which is the process's: held while any thread has a plan open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._stance: AbstractContextManager[Any] = nullcontext()

    def hold(self) -> None:
        with self._lock:
            self._holders += 1
            if self._holders == 1 and hasattr(torch.compiler, "set_stance"):
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._stance.__exit__(None, None, None)


_compiler = _Compiler()


class Capture(TorchFunctionMode):
    """The mode that keeps `plan` true to what code inside it does."""

    def __init__(self, plan: plans.Plan) -> None:
        super().__init__()
        self._plan = plan
        self._compiler_is_held = not plan.deferring

    def __enter__(self) -> Capture:
        self._hold_compiler()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self._plan.deferring and self._compiler_is_held:
            _compiler.release()

    def _hold_compiler(self) -> None:
        """Let compiled code run as it is written: the compiler would look into this mode."""
        if not self._compiler_is_held and "torch._dynamo" in sys.modules:
            self._compiler_is_held = True
            _compiler.hold()

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self._compiler_is_held:
            self._hold_compiler()
        if func in calls.UNWRITTEN and self._plan.everything:
            return self._allocate(func, args, kwargs)
        if func in calls.HARMLESS:
            return func(*args, **kwargs)
        if self._plan.deferring and is_native():
            if self._record(func, args, kwargs):
                return args[0] if args else kwargs["tensor"]
            if func in calls.CASTS and self._plan.everything:
                moved = self._carry(func, args, kwargs)
                if moved is not None:
                    return moved
        if not calls.is_view(func, args):
            self._before(func, args, kwargs)
        if self._plan.initializations or self._plan.everything:
            return self._watch(func, args, kwargs)
        return func(*args, **kwargs)

    def _watch(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call, and tell the plan what was written."""
        with torch._C.DisableTorchFunction():  # subclasses, lazy parameters say, may refuse a look
            before = [(t, calls.version(t)) for t in calls.tensors((args, kwargs))]
        result = func(*args, **kwargs)
        if func == calls.SET_DATA:
            self._plan.replaced(args[0])
            return result
        with torch._C.DisableTorchFunction():
            for tensor, version in before:
                wrote = calls.has_written(func, tensor, version)
                if wrote and tensor.layout is torch.strided:
                    self._plan.computed(tensor)
        return result

    def _allocate(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if result.layout is torch.strided and kwargs.get("out") is None:
            with torch._C.DisableTorchFunction():
                self._plan.allocated(result)
        return result

    def _carry(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor | None:
        """The tensor moved or cast, where that needs no values."""
        tensor: Tensor = args[0]
        with torch._C.DisableTorchFunction():
            target = calls.target_of(func, tensor, args[1:], kwargs)
            if target is None:
                return None
            if target == (tensor.device, tensor.dtype):
                return tensor
            if tensor.requires_grad and torch.is_grad_enabled():
                return None
            return self._plan.carried(tensor, *target)

    def _record(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the call was a fill that is now in the plan."""
        name = getattr(func, "__name__", "")
        # torch's own, or what others have put in their place, which then called them.
        if func is getattr(torch.nn.init, name, None):
            from fastinit import init

            ours = getattr(init, name)
            if name not in init.__all__ or not self._plan.serves(kwargs["tensor"]):
                return False
            ours(*args, **kwargs)
            return True
        if (
            func is Tensor.copy_
            and self._plan.deferring_copies
            and calls.copies_for_sure(*args[:2])
        ):
            self._plan.flush(calls.storages(args[1]))
            self._plan.record(fills.Copy(*args[:2]))
            return True
        parse = calls.FILLS.get(func)
        if parse is None:
            return False
        if self._plan.has_fan_groups and self._record_by_fans(args[0]):
            return True
        try:
            tensor, kind, parameters, generator = parse(*args, **kwargs)
        except (TypeError, ValueError):
            return False  # torch has the better error message
        if tensor.requires_grad and torch.is_grad_enabled():
            return False  # an error for a leaf, otherwise a step of the autograd graph
        return plans.write(tensor, kind, parameters, generator)

    def _record_by_fans(self, tensor: Tensor) -> bool:
        """Whether one of torch's rules by fans is what fills the tensor; it is recorded as ours.

        Those rules are not seen by a mode, only the fill with which they end.
        """
        from fastinit import init

        frame = sys._getframe(3)
        for _ in range(6):  # of the fill, its helper, decorators and the mode between them
            arguments = calls.BY_FANS.get(frame.f_code)
            if arguments is not None and self._plan.serves(tensor):
                given = {name: frame.f_locals[name] for name in arguments}
                getattr(init, frame.f_code.co_name)(tensor, **given)
                return True
            if frame.f_back is None:
                break
            frame = frame.f_back
        return False

    def _before(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plan = self._plan
        if plan:
            if func in calls.BACKWARD:
                plan.finish()
            elif func == calls.SET_DATA and plan.everything:
                pass  # what is pending is pending for the memory, whoever has it
            elif func is Tensor.copy_ and len(args) > 1 and calls.copies_for_sure(*args[:2]):
                plan.flush(calls.storages(args[1:]))
                plan.overwrite(args[0])
            else:
                try:
                    storages = calls.storages((args, kwargs))
                except NotImplementedError:  # tensors without memory, as inside vmap
                    plan.finish()
                else:
                    plan.flush(s for s in storages if plan.is_pending(s))
        if func in calls.ESCAPES:
            plan.escape(args[0])
        elif func == calls.SET_DATA:
            plan.retire(args[0])


def _install_trunc_normal() -> None:
    """Let `torch.nn.init.trunc_normal_` be seen whole.

    It is the one initialiser that no mode sees: it reads its draws back as it makes them. But it
    looks its helper up when it is called, so the helper can ask for the plan of its thread.
    """
    eager = torch.nn.init._no_grad_trunc_normal_

    def trunc_normal(
        tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Any = None
    ) -> Tensor:
        in_plan = plans.current() is not None
        if in_plan and plans.write(tensor, fills.TRUNC_NORMAL, (mean, std, a, b), generator):
            fills.warn_if_far(mean, std, a, b)
            return tensor
        return eager(tensor, mean, std, a, b, generator=generator)

    torch.nn.init._no_grad_trunc_normal_ = trunc_normal


def _install_swap_tensors() -> None:
    """Two tensors that exchange their memory, which no mode sees, take nothing pending along.

    `torch.utils.swap_tensors`, however it was imported, looks this helper up when it is called.
    """
    eager = torch._C._swap_tensor_impl

    def swap_tensor_impl(t1: Tensor, t2: Tensor) -> Any:
        plan = plans.current()
        if plan is None:
            return eager(t1, t2)
        with torch._C.DisableTorchFunction():
            plan.finish()
            for tensor in (t1, t2):
                plan.retire(tensor)
            eager(t1, t2)
            for tensor in (t1, t2):
                plan.replaced(tensor)
        return None

    torch._C._swap_tensor_impl = swap_tensor_impl


_install_trunc_normal()
_install_swap_tensors()
