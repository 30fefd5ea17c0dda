"""The function mode of a plan: code inside the plan computes the same as without it.

A `TorchFunctionMode` sees every call of torch's Python API with its arguments, and `effects.py`
says what the call does. The mode records fills, carries what is pending for a tensor along with its
views, moves and casts, drops what a whole `copy_` overwrites, and executes first whatever a call
can read. What no mode sees is in `patches.py`, and what cannot be seen in docs/what-a-plan-sees.md.
While a plan is open, code compiled by torch.compile runs as it is written, in
other threads too. In a plan without an account, autograd learns of a fill when it is executed: a
backward pass executes everything first, a graph node that is called directly does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastinit.capture import arguments, means, sharded
from fastinit.capture.compiler import is_loaded, stance
from fastinit.capture.drawing import drawing, is_random
from fastinit.capture.effects import EFFECTS, SHAPES, Effect, Function
from fastinit.capture.replacements import exchange, replacement_by_code, replacement_of
from fastinit.capture.watched import watched
from fastinit.kernels import tails
from fastinit.kernels.native import _C, is_native
from fastinit.kernels.supported import mark_written
from fastinit.plan.carry import carried, copied
from fastinit.plan.current import current, enter, leave
from fastinit.plan.plan import Copies, Plan
from fastinit.plan.write import write
from fastinit.tensors import torch_private
from fastinit.tensors.parts import parts
from fastinit.tensors.shards import dtensor_class, is_dtensor
from fastinit.tensors.torch_private import unwatched

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@contextmanager
def capturing(plan: Plan) -> Iterator[None]:
    """Make the plan this context's for the block, and let it see what code does there.

    However the block ends, by an interrupt at any moment too, nothing of it stays behind.
    """
    mode = Capture(plan)
    try:
        try:
            enter(plan)
            mode.begin()
            yield
        finally:
            mode.end()
            leave(plan)
    finally:  # again: the first time may have been interrupted
        mode.end()
        leave(plan)


class Capture(TorchFunctionMode):
    """The function mode of one plan. In other contexts, and after the plan, it sees nothing."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._holds_stance = not plan.deferring
        self._dtensors: Any = None
        self._has_dtensors: Callable[..., bool] = lambda *_: False
        if plan.recorder is None or _C is None:
            self._is_here: Callable[[], bool] = lambda: current() is plan
        else:
            self._is_here = partial(_C.is_here, plan.recorder)

    def begin(self) -> None:
        """Put the mode on torch's stack."""
        torch_private.remove_modes(lambda mode: type(mode) is Capture and mode.is_over)
        self._hold_stance()
        if self._plan.deferring:
            exchange.hold(self)
        self._look_for_dtensors()
        torch_private.push_mode(self)

    def end(self) -> None:
        """Take the mode off torch's stack, wherever it is there, and undo what else `begin` did."""
        torch_private.remove_modes(lambda mode: mode is self)
        exchange.release(self)
        stance.release(self)

    @property
    def is_over(self) -> bool:
        """Whether the plan is closed: an interrupt has left the mode behind."""
        return not self._plan.is_open

    def _hold_stance(self) -> None:
        if not self._holds_stance and is_loaded():
            self._holds_stance = True
            stance.hold(self)

    def __torch_function__(
        self, func: Function, types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        handler = _BY_FUNCTION.get(func, Capture._other)
        if handler is None or not self._is_here():  # it only looks
            return func(*args, **(kwargs or {}))
        if not self._holds_stance and is_loaded():
            self._hold_stance()
        kwargs = kwargs or {}
        if self._dtensors is not None:
            if self._plan.sharded.loans:
                return self._beside_loans(func, args, kwargs)
            if self._has_dtensors(self._dtensors, args, kwargs):
                return self._of_shards(func, args, kwargs)
        return handler(self, func, args, kwargs)

    def _beside_loans(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        """Handle a call while wholes are in the place of shards, whose memory it may use."""
        plan = self._plan
        with unwatched():
            plan.sharded.settle()
            plan.sharded.show(sharded.memory(args, kwargs, is_torchs=sharded.is_torchs(func)))
        has_dtensors = self._has_dtensors(self._dtensors, args, kwargs)
        result = (self._of_shards if has_dtensors else self._handle)(func, args, kwargs)
        with unwatched():
            plan.sharded.require_unwritten()
        return result

    def _look_for_dtensors(self) -> None:
        """Look whether there may be DTensors: before any is made, something is read or viewed."""
        if self._plan.deferring and _C is not None:
            self._dtensors = dtensor_class()
            self._has_dtensors = _C.has_instances

    def _of_shards(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        """Handle a call with DTensors."""
        plan = self._plan
        if func is Tensor.mean and (stamp := self._stamp(args)) is not None:
            return stamp
        tensor: Any = args[0] if args else kwargs.get("tensor")
        if sharded.makes_new(func) and is_dtensor(tensor):
            return self._handle(func, (sharded.stand_in(tensor), *args[1:]), kwargs)
        if sharded.is_torchs(func):
            return self._by_torch(func, args, kwargs)
        effect = EFFECTS.get(func)
        if effect is None and (ours := replacement_of(func)) is not None:
            ours(*args, **kwargs)
            return tensor
        if effect is Effect.FILL and self._defers() and self._records(func, args, kwargs):
            return tensor
        if effect in (Effect.TAIL, Effect.COPY) and is_dtensor(tensor):
            with unwatched():
                local = sharded.locals_of(plan, effect, args, kwargs)
            if local is not None:
                _HANDLERS[effect](self, func, local, kwargs)  # type: ignore[misc]
                mark_written(tensor)
                return tensor
        return sharded.on_wholes(plan, self._handle, func, args, kwargs)

    def _by_torch(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        effect = EFFECTS.get(func, Effect.READ)
        if effect in (Effect.LOOK, Effect.ALLOCATE):
            result = func(*args, **kwargs)
            if effect is Effect.ALLOCATE and is_dtensor(result):
                self._plan.pending.allocated(torch_private.local_tensor(result))
            return result
        if effect is Effect.ESCAPE:
            self._plan.execute_first((args, kwargs))
            for part in parts(args[0]) or ():
                self._plan.escape(part)
        if effect is Effect.BACKWARD:
            return self._backward(func, args, kwargs)
        if effect is Effect.REBIND:  # which torch loses: the memory stays, and gets the values
            with torch.no_grad():
                self._of_shards(Tensor.copy_, args, kwargs)
            return None
        return self._read(func, args, kwargs)

    def _handle(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        """Handle a call without DTensors."""
        handler = _BY_FUNCTION.get(func, Capture._other)
        if handler is None or func in SHAPES:
            return func(*args, **kwargs)
        return handler(self, func, args, kwargs)

    def _shape(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        if self._dtensors is None:
            self._look_for_dtensors()
        return func(*args, **kwargs)

    def _other(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        """Handle a function that `EFFECTS` does not know: one of `torch.nn.init`, or a read."""
        ours = replacement_of(func)
        if ours is not None and self._defers() and self._serves(kwargs["tensor"]):
            ours(*args, **kwargs)
            return args[0] if args else kwargs["tensor"]
        if torch_private.may_be_python(func) and self._plan.recorder:
            self._plan.finish()
        return self._read(func, args, kwargs)

    def _defers(self) -> bool:
        return self._plan.deferring and is_native() and not torch_private.is_traced()

    def _serves(self, tensor: Tensor) -> bool:
        return (_C is not None and _C.serves(tensor)) or self._plan.executor.serves(tensor)

    # --- a handler for each effect ----------------------------------------------------------------

    def _allocate(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        if kwargs.get("out") is not None:
            return self._read(func, args, kwargs)
        result = func(*args, **kwargs)
        if self._plan.account is not None and self._plan.recorder is not None and self._defers():
            self._plan.recorder.allocated(result)
        return result

    def _make(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        # `requires_grad=` and `generator=` are no tensors, `out=` is one.
        if _C is not None and not _C.has_tensors((args, kwargs)):
            return drawing(self._plan, func, *args, **kwargs)
        return self._read(func, args, kwargs)

    def _draw(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        return drawing(self._plan, func, *args, **kwargs)

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
                is_graph = torch.is_grad_enabled() and any(t.requires_grad for t in args[:2])
                if self._defers() and not is_graph and copied(plan, *args[:2]):
                    return args[0]
            plan.flush(arguments.storages(args[1:]))
            plan.overwrite(args[0])
        return watched(plan, func, args, kwargs)

    def _move(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        """Move or cast the tensor; if that needs no values, what is pending moves along."""
        if self._plan.account is not None and self._defers():
            tensor: Tensor = args[0]
            with unwatched():
                target = arguments.target_of(func, tensor, args[1:], kwargs)
                if target is not None and arguments.is_there(tensor, *target):
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

    def _mean(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        stamp = self._stamp(args)
        return self._read(func, args, kwargs) if stamp is None else stamp

    def _stamp(self, args: Args) -> Tensor | None:
        is_whole = self._defers() and len(args) == 1
        return means.stamp(self._plan, sys._getframe(3).f_code, args[0]) if is_whole else None

    def _view(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        if arguments.is_view(func, args):
            return func(*args, **kwargs)
        return self._read(func, args, kwargs)

    def _rebind(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        plan = self._plan
        if plan.account is None:  # with one, what is pending belongs to the memory
            plan.execute_first((args, kwargs))
        old = plan.retire(args[0])
        result = func(*args, **kwargs)
        plan.replaced(args[0], old)
        return result

    def _escape(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        self._plan.execute_first((args, kwargs))
        self._plan.escape(args[0])
        return watched(self._plan, func, args, kwargs)

    def _backward(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        plan = self._plan
        if plan.recorder:
            plan.finish()
        # Hooks and checkpoints run, which may draw.
        with nullcontext() if plan.draws is None else plan.draws.as_default(torch.device("cpu")):
            return watched(plan, func, args, kwargs)

    def _read(self, func: Function, args: Args, kwargs: Kwargs) -> Any:
        plan = self._plan
        if self._dtensors is None:
            self._look_for_dtensors()
        plan.execute_first((args, kwargs))
        if plan.draws is not None and is_random(func):
            return watched(plan, func, args, kwargs, partial(drawing, plan, func))
        return watched(plan, func, args, kwargs)


_HANDLERS: dict[Effect, Callable[[Capture, Function, Args, Kwargs], Any] | None] = {
    Effect.LOOK: None,
    Effect.ALLOCATE: Capture._allocate,
    Effect.MAKE: Capture._make,
    Effect.DRAW: Capture._draw,
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
_BY_FUNCTION[Tensor.mean] = Capture._mean
_BY_FUNCTION |= dict.fromkeys(SHAPES, Capture._shape)  # of shards they need not be views
