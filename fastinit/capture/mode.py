"""The function mode of a plan: code inside the plan computes the same as without it.

A `TorchFunctionMode` sees every call of torch's Python API with its arguments, and `effects.py`
says what the call does. The mode records fills, carries what is pending for a tensor along with its
views, moves and casts, drops what a whole `copy_` overwrites, and executes first whatever a call
can read. It does not see other threads, TorchScript and `torch.utils.dlpack.to_dlpack`: they find
what is in memory. While a plan is open, code compiled by torch.compile runs as it is written, in
other threads too. In a plan without an account, autograd learns of a fill when it is executed: a
backward pass executes everything first, a graph node that is called directly does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastinit.capture import arguments
from fastinit.capture.compiler import COMPILER, stance
from fastinit.capture.effects import EFFECTS, Effect, Function
from fastinit.capture.replacements import exchange, replacement_by_code, replacement_of
from fastinit.kernels import tails
from fastinit.kernels.native import _C, is_native
from fastinit.plan.carry import carried, copied
from fastinit.plan.plan import Copies, Plan
from fastinit.plan.write import write
from fastinit.tensors import torch_private
from fastinit.tensors.torch_private import unwatched

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Capture(TorchFunctionMode):
    """The function mode of one plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._holds_stance = not plan.deferring

    def __enter__(self) -> Capture:
        self._hold_stance()
        if self._plan.deferring:
            exchange.hold()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self._plan.deferring:
            exchange.release()
            if self._holds_stance:
                stance.release()

    def _hold_stance(self) -> None:
        if not self._holds_stance and COMPILER in sys.modules:
            self._holds_stance = True
            stance.hold()

    def __torch_function__(
        self, func: Function, types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        handler = _BY_FUNCTION.get(func, Capture._other)
        if handler is None:  # it only looks
            return func(*args, **(kwargs or {}))
        if not self._holds_stance and COMPILER in sys.modules:
            self._hold_stance()
        return handler(self, func, args, kwargs or {})

    def _other(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        """Handle a function that `EFFECTS` does not know: one of `torch.nn.init`, or a read."""
        ours = replacement_of(func)
        if ours is not None and self._defers() and self._serves(kwargs["tensor"]):
            ours(*args, **kwargs)
            return args[0] if args else kwargs["tensor"]
        return self._read(func, args, kwargs)

    def _defers(self) -> bool:
        return self._plan.deferring and is_native()

    def _serves(self, tensor: Tensor) -> bool:
        return (_C is not None and _C.serves(tensor)) or self._plan.executor.serves(tensor)

    # --- a handler for each effect ----------------------------------------------------------------

    def _allocate(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        if kwargs.get("out") is not None:
            return self._read(func, args, kwargs)
        result = func(*args, **kwargs)
        if self._plan.account is not None and self._plan.recorder is not None:
            self._plan.recorder.allocated(result)
        return result

    def _make(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        # `requires_grad=` and `generator=` are no tensors, `out=` is one.
        if _C is not None and not _C.has_tensors((args, kwargs)):
            return func(*args, **kwargs)
        return self._read(func, args, kwargs)

    def _fill(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        if self._defers() and self._records(func, args, kwargs):
            return args[0]
        return self._read(func, args, kwargs)

    def _records(self, func: Function, args: Args, kwargs: Kwargs) -> bool:
        """Record the call in the plan, and return whether it was a fill that could be recorded."""
        if self._plan.has_fan_groups and self._records_by_fans(args[0]):
            return True
        fill = arguments.parsed_fill(func, args, kwargs)
        if fill is None:
            return False
        tensor, kind, parameters, generator = fill
        if tensor.requires_grad and torch.is_grad_enabled():
            return False  # torch raises for a leaf, and extends the graph otherwise
        return write(tensor, kind, parameters, generator)

    def _records_by_fans(self, tensor: Tensor) -> bool:
        """Record a fill that an initialiser of torch asks for as ours; return whether one does.

        A mode does not see torch's fan-dependent initialisers, only the fill that they end with.
        """
        frame = sys._getframe(3)
        for _ in range(8):  # as deep as the mode, the fill, its helper and decorators go
            found = replacement_by_code(frame.f_code)
            if found is not None and self._serves(tensor):
                found.ours(tensor, **{name: frame.f_locals[name] for name in found.arguments})
                return True
            if frame.f_back is None:
                break
            frame = frame.f_back
        return False

    def _tail(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        if self._plan.recorder and self._defers() and args:
            tensor = args[0]
            operation = tails.operation(tails.METHODS[func], args[1:], kwargs)
            is_graph = tensor.requires_grad and torch.is_grad_enabled()
            is_plain = not is_graph and self._serves(tensor) and not tensor.is_inference()
            if operation is not None and is_plain and self._plan.record_tail(tensor, operation):
                return tensor
        return self._read(func, args, kwargs)

    def _copy(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        plan = self._plan
        is_sure = len(args) > 1 and arguments.copies_for_sure(*args[:2])
        if not is_sure:
            return self._read(func, args, kwargs)
        if self._defers() and plan.copies is not Copies.EXECUTED:
            plan.flush(arguments.storages(args[1]))
            plan.record_copy(*args[:2])
            return args[0]
        if plan.recorder:
            with unwatched():
                if self._defers() and copied(plan, *args[:2]):
                    return args[0]
            plan.flush(arguments.storages(args[1:]))
            plan.overwrite(args[0])
        return self._watched(func, args, kwargs)

    def _move(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        """Move or cast the tensor; if that needs no values, what is pending moves along."""
        if self._plan.account is not None and self._defers():
            tensor: Tensor = args[0]
            with unwatched():
                target = arguments.target_of(func, tensor, args[1:], kwargs)
                if target == (tensor.device, tensor.dtype):
                    return tensor
                is_graph = tensor.requires_grad and torch.is_grad_enabled()
                if target is not None and not is_graph:
                    new = carried(self._plan, tensor, *target)
                    if new is not None:
                        return new
        return self._read(func, args, kwargs)

    def _clone(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        is_same_format = kwargs.get("memory_format") in (None, torch.preserve_format)
        if self._plan.account is not None and self._defers() and len(args) == 1 and is_same_format:
            tensor: Tensor = args[0]
            with unwatched():
                if not (tensor.requires_grad and torch.is_grad_enabled()):
                    new = carried(self._plan, tensor, tensor.device, tensor.dtype)
                    if new is not None:
                        return new
        return self._read(func, args, kwargs)

    def _view(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        if arguments.is_view(func, args):
            return func(*args, **kwargs)
        return self._read(func, args, kwargs)

    def _rebind(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        plan = self._plan
        if plan.account is None:  # with one, what is pending belongs to the memory
            self._execute_first(args, kwargs)
        old = plan.retire(args[0])
        result = func(*args, **kwargs)
        plan.replaced(args[0], old)
        return result

    def _escape(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        self._execute_first(args, kwargs)
        self._plan.escape(args[0])
        return self._watched(func, args, kwargs)

    def _backward(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        if self._plan.recorder:
            self._plan.finish()
        return self._watched(func, args, kwargs)

    def _read(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        self._execute_first(args, kwargs)
        return self._watched(func, args, kwargs)

    # --- before and after a call ------------------------------------------------------------------

    def _execute_first(self, args: Args, kwargs: Kwargs) -> None:
        """Execute everything pending that the call could read."""
        recorder = self._plan.recorder
        if recorder:
            storages = recorder.waiting_in((args, kwargs))
            if storages is None:  # tensors without memory, as inside vmap
                self._plan.finish()
            elif storages:
                self._plan.flush(storages)

    def _watched(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        """Call the function, and tell the plan which tensors it wrote."""
        plan = self._plan
        if plan.account is None and not plan.scope.running:
            return func(*args, **kwargs)
        before = _versions((args, kwargs))
        result = func(*args, **kwargs)
        if not before:
            return result
        with unwatched():
            for tensor, version in before:
                wrote = arguments.has_written(func, tensor, version)
                if wrote and tensor.layout is torch.strided:
                    plan.computed(tensor)
        return result


def _versions(value: Any) -> list[tuple[Tensor, int | None]]:
    if _C is not None:
        return list(_C.versions(value))
    with unwatched():  # subclasses (lazy parameters) may refuse a look
        return [(t, torch_private.version(t)) for t in arguments.tensors(value)]


_HANDLERS: dict[Effect, Callable[[Capture, Function, Args, Kwargs], Any] | None] = {
    Effect.LOOK: None,
    Effect.ALLOCATE: Capture._allocate,
    Effect.MAKE: Capture._make,
    Effect.FILL: Capture._fill,
    Effect.TAIL: Capture._tail,
    Effect.COPY: Capture._copy,
    Effect.MOVE: Capture._move,
    Effect.CLONE: Capture._clone,
    Effect.VIEW: Capture._view,
    Effect.REBIND: Capture._rebind,
    Effect.ESCAPE: Capture._escape,
    Effect.BACKWARD: Capture._backward,
    Effect.READ: Capture._read,
}

_BY_FUNCTION = {function: _HANDLERS[effect] for function, effect in EFFECTS.items()}
