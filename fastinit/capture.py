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
Autograd learns of a fill when it is executed, which the backward pass sees to; a node of the graph
that is called directly does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastinit import fills
from fastinit import plan as plans
from fastinit.backends import is_native
from fastinit.names import storage_key

Function = Callable[..., Any]


def _methods(names: str) -> set[Function]:
    return {getattr(Tensor, name) for name in names.split() if hasattr(Tensor, name)}


def _functions(names: str) -> set[Function]:
    return {getattr(torch, name) for name in names.split() if hasattr(torch, name)}


def _getters(names: str) -> set[Function]:
    return {getattr(Tensor, name).__get__ for name in names.split() if hasattr(Tensor, name)}


# Factories of memory that holds nothing yet.
_UNWRITTEN: set[Function] = {
    *_methods("new_empty new_empty_strided"),
    *_functions("empty empty_like empty_strided empty_permuted"),
}
# Calls that read no element. What they return shares the storage, and is pending with it.
_HARMLESS: set[Function] = (
    _methods(
        "size dim ndimension numel nelement stride storage_offset is_contiguous element_size "
        "is_floating_point is_complex is_signed is_inference is_conj is_neg get_device has_names "
        "__len__ __hash__ requires_grad_ detach view view_as t transpose permute unsqueeze squeeze "
        "narrow select expand expand_as unflatten swapaxes swapdims movedim register_hook "
        "new_empty new_zeros new_ones"
    )
    | _getters(
        "shape dtype device layout requires_grad grad grad_fn is_leaf data ndim itemsize nbytes "
        "T mT names output_nr is_cuda is_cpu is_meta is_sparse is_mkldnn is_quantized "
        "is_mps is_xpu is_nested retains_grad volatile name _base _grad"
    )
    | {getattr(Tensor.requires_grad, "__set__")}  # noqa: B009 - typed as a bool
    | _functions(
        "empty_like zeros_like ones_like rand_like randn_like numel "
        "is_tensor is_floating_point is_complex is_inference transpose permute unsqueeze "
        "squeeze narrow select t movedim swapaxes unflatten broadcast_to "
        "_has_compatible_shallow_copy_type"
    )
)
# What moves a tensor, or casts it to a dtype.
_CASTS: dict[Function, torch.dtype | None] = {
    Tensor.to: None,
    Tensor.cpu: None,
    Tensor.cuda: None,
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
    Tensor.float: torch.float32,
    Tensor.double: torch.float64,
}
_VIEWS_IF_CONTIGUOUS = _methods("reshape flatten ravel") | {torch.reshape, torch.flatten}
_ESCAPES = _methods(
    "numpy __array__ data_ptr untyped_storage storage _typed_storage __dlpack__ share_memory_ "
    "set_ resize_ resize_as_"
)
_BACKWARD = {Tensor.backward, torch.autograd.grad, torch.autograd.backward}
_SET_DATA = getattr(Tensor.data, "__set__")  # noqa: B009 - typed as a Tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _storages(value: Any) -> list[int]:
    return [storage_key(t) for t in _tensors(value) if t.layout is torch.strided]


def _is_basic_index(index: Any) -> bool:
    if isinstance(index, tuple):
        return all(map(_is_basic_index, index))
    if isinstance(index, bool):  # a mask, which copies
        return False
    return index is None or index is Ellipsis or isinstance(index, (int, slice))


def _copies_for_sure(to: Tensor, source: Any = None) -> bool:
    """Whether `to.copy_(source)` cannot raise, so that what it overwrites may be forgotten."""
    is_graph = to.requires_grad and torch.is_grad_enabled()
    strided = isinstance(source, Tensor) and to.layout is source.layout is torch.strided
    if not strided or is_graph or to.shape != source.shape:
        return False
    is_there = to.is_meta or not source.is_meta
    return is_there and fills.is_injective(to) and not to.is_inference()


def _target(
    func: Function, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.device, torch.dtype] | None:
    """Where one of `_CASTS` puts the tensor, unless it wants more of it."""
    dtype, device = _CASTS[func], None
    if func is Tensor.cuda and not (args or kwargs):
        device = torch.device("cuda")
    elif func is Tensor.cpu and not (args or kwargs):
        device = torch.device("cpu")
    elif func is Tensor.to:
        try:
            device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        except (RuntimeError, TypeError):  # a copy is asked for; or it is torch's error
            return None
        if memory_format is not None:
            return None
    elif args or kwargs:
        return None
    if device is not None and device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device or tensor.device, dtype or tensor.dtype


def _fill_normal(self: Tensor, mean: Any = 0.0, std: Any = 1.0, *, generator: Any = None) -> Any:
    return self, fills.NORMAL, (mean, std), generator


def _fill_uniform(self: Tensor, *bounds: Any, generator: Any = None, **named: Any) -> Any:
    # `from` is a keyword of Python: no parameter can be called that.
    given = dict(zip(("from", "to"), bounds, strict=False)) | named
    low, high = ({"from": 0.0, "to": 1.0} | given).values()
    return self, fills.UNIFORM, (low, high), generator


def _fill_constant(self: Tensor, value: Any) -> Any:
    return self, fills.CONSTANT, (value,), None


def _fill_zero(self: Tensor) -> Any:
    return self, fills.CONSTANT, (0.0,), None


_FILLS: dict[Function, Callable[..., Any]] = {
    Tensor.normal_: _fill_normal,
    Tensor.uniform_: _fill_uniform,
    Tensor.fill_: _fill_constant,
    Tensor.zero_: _fill_zero,
}


# torch's rules by fans, by their code: however imported, they end in a fill that is seen.
_BY_FANS: dict[CodeType, tuple[str, ...]] = {
    torch.nn.init.xavier_uniform_.__code__: ("gain", "generator"),
    torch.nn.init.xavier_normal_.__code__: ("gain", "generator"),
    torch.nn.init.kaiming_normal_.__code__: ("a", "mode", "nonlinearity", "generator"),
}


class Capture(TorchFunctionMode):
    """The mode that keeps `plan` true to what code inside it does."""

    def __init__(self, plan: plans.Plan) -> None:
        super().__init__()
        self._plan = plan
        self._stance: AbstractContextManager[Any] = nullcontext()

    def __enter__(self) -> Capture:
        # Compiled code runs as it is written: the compiler would look into this mode.
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            self._stance = torch.compiler.set_stance("force_eager")
        self._stance.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stance.__exit__(*error)

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _UNWRITTEN and self._plan.everything:
            return self._allocate(func, args, kwargs)
        if func in _HARMLESS:
            return func(*args, **kwargs)
        if self._plan.deferring and is_native():
            if self._record(func, args, kwargs):
                return args[0] if args else kwargs["tensor"]
            if func in _CASTS and self._plan.everything:
                moved = self._carry(func, args, kwargs)
                if moved is not None:
                    return moved
        if not self._is_view(func, args):
            self._before(func, args, kwargs)
        result = func(*args, **kwargs)
        self._after(func, args, kwargs)
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
            target = _target(func, tensor, args[1:], kwargs)
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
        if func is Tensor.copy_ and self._plan.deferring_copies and _copies_for_sure(*args[:2]):
            self._plan.flush(_storages(args[1]))
            self._plan.record(fills.Copy(*args[:2]))
            return True
        parse = _FILLS.get(func)
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
            arguments = _BY_FANS.get(frame.f_code)
            if arguments is not None and self._plan.serves(tensor):
                given = {name: frame.f_locals[name] for name in arguments}
                getattr(init, frame.f_code.co_name)(tensor, **given)
                return True
            if frame.f_back is None:
                break
            frame = frame.f_back
        return False

    def _is_view(self, func: Function, args: tuple[Any, ...]) -> bool:
        if func is Tensor.__getitem__:
            return _is_basic_index(args[1])
        return func in _VIEWS_IF_CONTIGUOUS and bool(args) and args[0].is_contiguous()

    def _before(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plan = self._plan
        if plan:
            if func in _BACKWARD:
                plan.finish()
            elif func == _SET_DATA and plan.everything:
                pass  # what is pending is pending for the memory, whoever has it
            elif func is Tensor.copy_ and len(args) > 1 and _copies_for_sure(*args[:2]):
                plan.flush(_storages(args[1:]))
                plan.overwrite(args[0])
            else:
                try:
                    storages = _storages((args, kwargs))
                except NotImplementedError:  # tensors without memory, as inside vmap
                    plan.finish()
                else:
                    plan.flush(s for s in storages if plan.is_pending(s))
        if func in _ESCAPES:
            plan.escape(args[0])
        elif func == _SET_DATA:
            plan.retire(args[0])

    def _after(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Tell the plan what was written."""
        if not (self._plan.initializations or self._plan.everything):
            return
        name = getattr(func, "__name__", "")
        if func == _SET_DATA:
            self._plan.replaced(args[0])
        elif _is_in_place(name):
            self._computed(args[:1] or kwargs.get("tensor"))
        if "out" in kwargs:
            self._computed(kwargs["out"])

    def _computed(self, value: Any) -> None:
        for tensor in _tensors(value):
            if tensor.layout is torch.strided:
                self._plan.computed(tensor)


def _is_in_place(name: str) -> bool:
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name != "__invert__")
    return name.endswith("_")


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
