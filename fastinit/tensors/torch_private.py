"""The private names of torch that fastinit uses, all of them, and substitutes for missing ones.

A new version of torch needs changes in this file alone. `NAMES` lists each name with the versions
that have it and what is lost without it; `missing` returns those that this torch lacks, for
`show_config` and the tests. The registries of `nn.Module` (`_modules`, `_parameters`, `_buffers`
and the loading hooks) are listed here and used in other files: nothing could replace them.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

Unwatched = Callable[[], AbstractContextManager[Any]]


class Private(NamedTuple):
    """A private name of torch.

    Attributes:
        path: "module:attribute.path"; a class (Tensor, Module) also stands for its instances.
        seen: the oldest and the newest version of torch that were seen to have it.
        without: what fastinit does if it is missing.
        is_required: whether the native backend is off without it.
    """

    path: str
    seen: str
    without: str
    is_required: bool = False


_SEEN = "2.6 to 2.14"
# Only builds of torch with CUDA have it, and only they need it.
_ON_CUDA = Private("torch:_C._cuda_getCurrentRawStream", _SEEN, "streams are looked up slowly")
NAMES = (
    _ON_CUDA,
    Private("torch:_C.DisableTorchFunction", _SEEN, "everything is torch's", True),
    Private("torch:_C._functorch.is_functorch_wrapped_tensor", _SEEN, "all is torch's", True),
    Private("torch:_C.ScriptMethod", "2.13", "plans do not see scripted modules"),
    Private("torch:Tensor._indices", "2.13", "sparse tensors have to be coalesced"),
    Private("torch:Tensor._values", "2.13", "sparse tensors have to be coalesced"),
    Private("torch:_C._functorch.get_unwrapped", "2.13", "torch.func executes everything first"),
    Private("torch.overrides:_get_current_function_mode_stack", "2.13", "nothing works"),
    Private("torch.overrides:_pop_mode", "2.13", "nothing works"),
    Private("torch.overrides:_push_mode", "2.13", "nothing works"),
    Private("torch:_C._len_torch_dispatch_stack", "2.13", "make_fx does not see fills", True),
    Private("torch:_C._set_tracing_state", "2.13", "a plan inside torch.jit.trace fails"),
    Private(
        "torch.utils._python_dispatch:_disable_current_modes", "2.13", "a plan in make_fx fails"
    ),
    Private("torch:_C._get_tracing_state", "2.13", "torch.jit.trace does not see fills", True),
    Private("torch:_C._is_torch_function_mode_enabled", "2.13", "tensors are read slowly"),
    Private("torch:_C._increment_version", "2.13", "the public function is used"),
    Private("torch:UntypedStorage._cdata", _SEEN, "everything is torch's", True),
    Private("torch:_C._storage_address", "2.13", "storages are looked up slowly"),
    Private("torch:Tensor.__dlpack_c_exchange_api__", "2.13", "tensors are read slowly"),
    Private("torch.nn:Module._modules", _SEEN, "nothing works"),
    Private("torch.nn:Module._parameters", _SEEN, "nothing works"),
    Private("torch.nn:Module._buffers", _SEEN, "nothing works"),
    Private("torch.nn:Module._apply", _SEEN, "materialize fails"),
    Private("torch.nn:Module._load_from_state_dict", _SEEN, "Pretrained fails"),
    Private("torch.nn:Module._load_state_dict_post_hooks", _SEEN, "Pretrained fails"),
    Private("torch:Tensor._version", _SEEN, "writes are told by the names of functions"),
    Private("torch:Tensor._make_subclass", _SEEN, "parameters on meta lose their class"),
    Private("torch:Tensor._backward_hooks", _SEEN, "materialize drops hooks of parameters"),
    Private("torch:Tensor._post_accumulate_grad_hooks", _SEEN, "materialize drops such hooks"),
    Private("torch:_C._disabled_torch_dispatch_impl", _SEEN, "subclasses of Tensor are torch's"),
    Private("torch:_C._disabled_torch_function_impl", _SEEN, "subclasses of Tensor are torch's"),
    Private("torch:_C._storage_Use_Count", _SEEN, "a cast fills its source first"),
    Private("torch:_C._nn._parse_to", _SEEN, "Tensor.to fills its source first"),
    Private("torch:_C._set_grad_enabled", _SEEN, "fused is slower"),
    Private("torch:_C._swap_tensor_impl", _SEEN, "plans do not see swap_tensors"),
    Private("torch.nn.init:_no_grad_trunc_normal_", _SEEN, "torch's trunc_normal_ is not seen"),
    Private("torch.nn:RNNBase._flat_weight_refs", "2.13", "recurrent modules are not materialized"),
    Private("torch.nn:RNNBase._flat_weights", "2.13", "recurrent modules are not materialized"),
    Private("torch.distributed.tensor:DTensor._local_tensor", _SEEN, "to_local is used"),
    Private(
        "torch.distributed.tensor.placement_types:_StridedShard",
        _SEEN,
        "FSDP over tensor parallelism is refused",
    ),
)
# Private attributes of Tensor, and a function of torch, that `capture/effects.py` recognises in
# calls; a torch that lacks one does not call it.
LOOKS = "_base _grad"
PREDICATES = "_has_compatible_shallow_copy_type"
ESCAPES = "_typed_storage"
DRAWS = "_fused_dropout _standard_gamma _sample_dirichlet"


_probe = torch.empty(1, device="cpu")


def _find(path: str, default: Any = None) -> Any:
    try:
        return resolve_name(path)
    except (ImportError, AttributeError):
        return default


def missing(wanted: Sequence[Private] = NAMES) -> list[Private]:
    """Return those of the names that this torch lacks."""
    # Instances, for attributes that their classes do not show.
    made: dict[str, Any] = {
        "torch.nn:Module": nn.Module(),
        "torch.nn:RNNBase": nn.LSTM(1, 1, device="meta"),
        "torch:UntypedStorage": _probe.untyped_storage(),
    }
    found = []
    for name in wanted:
        if "distributed" in name.path and not torch.distributed.is_available():
            continue
        if name is _ON_CUDA and torch.version.cuda is None:
            continue
        owner, _, attribute = name.path.rpartition(".")
        there = (
            hasattr(made[owner], attribute)
            if owner in made
            else _find(name.path, missing) is not missing
        )
        if not there:
            found.append(name)
    return found


def why_not_native() -> str:
    """Return why the native backend is off: the missing names that it requires; "" if none."""
    lost = missing([name for name in NAMES if name.is_required])
    names = [name.path.replace(":", ".") for name in lost]
    return f"this torch lacks {', '.join(names)}" if names else ""


unwatched: Unwatched = _find("torch:_C.DisableTorchFunction", nullcontext)
"""A context in which no function mode and no subclass sees operations on tensors."""

is_functorch_wrapped: Callable[[Tensor], bool] = _find(
    "torch:_C._functorch.is_functorch_wrapped_tensor", lambda tensor: True
)
function_modes: Callable[[], list[Any]] = _find("torch.overrides:_get_current_function_mode_stack")
push_mode: Callable[[Any], None] = _find("torch.overrides:_push_mode")
pop_mode: Callable[[], Any] = _find("torch.overrides:_pop_mode")
_unwrapped: Callable[[Tensor], Tensor] | None = _find("torch:_C._functorch.get_unwrapped")
coo_parts: tuple[Callable[[Tensor], Tensor], ...] = (
    _find("torch:Tensor._indices", Tensor.indices),
    _find("torch:Tensor._values", Tensor.values),
)
"""The parts of a sparse tensor, coalesced or not."""
dispatch_modes: Callable[[], int] = _find("torch:_C._len_torch_dispatch_stack", lambda: 0)
tracing_state: Callable[[], Any] = _find("torch:_C._get_tracing_state", lambda: None)
_disable_modes = _find("torch.utils._python_dispatch:_disable_current_modes", nullcontext)
disabled_dispatch: Any = _find("torch:_C._disabled_torch_dispatch_impl", object())
disabled_function: Any = _find("torch:_C._disabled_torch_function_impl", object())
set_grad_enabled: Any = _find("torch:_C._set_grad_enabled")
parse_to: Callable[..., Any] | None = _find("torch:_C._nn._parse_to")
EAGER = "_fastinit_eager"
"""The attribute that keeps torch's function on the one that replaced it."""

_trunc_normal = _find("torch.nn.init:_no_grad_trunc_normal_", nn.init.trunc_normal_)
# Not our patch of it, which an import of fastinit before this one may have left there.
eager_trunc_normal: Callable[..., Tensor] = getattr(_trunc_normal, EAGER, _trunc_normal)


# Not our patch of it.
eager_set: Callable[..., Tensor] = getattr(Tensor.set_, EAGER, Tensor.set_)


def unwrapped(tensor: Tensor) -> Tensor | None:
    """Return what a tensor that torch.func wraps stands for, one level down, if torch tells."""
    return None if _unwrapped is None else _unwrapped(tensor)


def remove_modes(are_meant: Callable[[Any], bool]) -> None:
    """Take function modes off torch's stack, from under others too."""
    others = []
    try:
        while any(map(are_meant, function_modes())):
            mode = pop_mode()
            if not are_meant(mode):
                others.append(mode)
    finally:
        for mode in reversed(others):
            push_mode(mode)


def is_traced() -> bool:
    """Whether what torch does is recorded, as by a dispatch mode or torch.jit.trace."""
    return dispatch_modes() != 0 or tracing_state() is not None


@contextmanager
def untraced() -> Iterator[None]:
    """A block of which no dispatch mode and no trace sees anything."""
    state = tracing_state()
    with _disable_modes():
        if state is not None:
            torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            if state is not None:
                torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def storage_id(storage: torch.UntypedStorage) -> int:
    """Return the identity of a storage among all that are alive."""
    number: int = storage._cdata
    return number


def storage_key(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage: equal for views, `.data` and tied parameters."""
    with unwatched():
        key: int = tensor.untyped_storage()._cdata
        return key


def version(tensor: Tensor) -> int | None:
    """Return autograd's count of writes to a tensor; None if it keeps none."""
    return None if tensor.is_inference() else getattr(tensor, "_version", None)


# The dtypes of tensors by DLPack's (code, bits); others have numbers of their own.
_FORMATS = {
    torch.float16: (2, 16),
    torch.float32: (2, 32),
    torch.float64: (2, 64),
    torch.bfloat16: (4, 16),
}


def describe(
    tensor: Tensor,
) -> tuple[int, bool, bool, int, int, tuple[int, ...], tuple[int, ...]] | None:
    """Return (address, is on the CPU, is on meta, format's code, its bits, shape, strides); None
    for a tensor without ordinary memory. On meta the address is the offset in the storage."""
    try:
        with unwatched():
            if tensor.layout is not torch.strided:
                return None
            code, bits = _FORMATS.get(tensor.dtype, (hash(tensor.dtype) & 0xFFFFF, 0))
            size = tensor.element_size()
            if tensor.is_meta:
                pointer = int(tensor.storage_offset()) * size
            else:
                pointer = tensor.data_ptr()
                if pointer == 0 and tensor.numel() > 0:
                    return None
            place = tensor.is_cpu, tensor.is_meta
            return pointer, *place, code, bits or 8 * size, tuple(tensor.shape), tensor.stride()
    except RuntimeError:  # without memory, as inside vmap
        return None


def words() -> Tensor:
    """Return room for two random words."""
    with torch.inference_mode(False):
        return torch.empty(2, dtype=torch.int64, device="cpu")


def for_recorder() -> dict[str, Any]:
    """Return what the native recorder (csrc/record/torch.cpp) asks of torch, by name."""
    storage = torch.UntypedStorage
    return {
        "exchange": _find("torch:Tensor.__dlpack_c_exchange_api__"),
        "Tensor": Tensor,
        "Parameter": nn.Parameter,
        "DisableTorchFunction": unwatched,
        "untyped_storage": Tensor.untyped_storage,
        "storage_key": _find("torch:_C._storage_address", storage_key),
        "nbytes": storage.nbytes,
        "resizable": storage.resizable,
        "users": storage_users,
        "holders": None if _python_counts_all() else _find("torch:Tensor._use_count"),
        "is_inference": Tensor.is_inference,
        "is_inference_mode": torch.is_inference_mode_enabled,
        "is_neg": Tensor.is_neg,
        "increment_version": _find("torch:_C._increment_version", increment_version),
        "describe": describe,
        "detach": Tensor.detach,
        "threads": torch.get_num_threads,
        "words": words,
        "random_": Tensor.random_,
        "dispatch_modes": dispatch_modes,
        "tracing": tracing_state,
        "cuda_stream": _find("torch:_C._cuda_getCurrentRawStream"),
        "has_mode": _find("torch:_C._is_torch_function_mode_enabled", lambda: True),
    }


_use_count = _find("torch:_C._storage_Use_Count")


def storage_users(storage: int) -> int:
    """Return how many tensors share the storage of an id, whose Python object the caller holds;
    2^30 if torch does not tell."""
    return int(_use_count(storage)) - _KEPT if _use_count is not None else 1 << 30


# Torch counts the Python object of a storage too: since 2.7 from the first time on that there is
# one, before for as long as there is. Whoever asks holds it.
_KEPT = 0
if _use_count is not None and hasattr(_held := _probe.untyped_storage(), "_cdata"):
    _KEPT = storage_users(storage_id(_held)) - 1


def _python_counts_all() -> bool:
    """Whether a tensor that torch itself holds has one more reference of Python's; older versions
    tell only by a count of their own."""
    owner, gradient = torch.ones(1, device="cpu"), torch.ones(1, device="cpu")
    before = sys.getrefcount(gradient)
    owner.grad = gradient
    return sys.getrefcount(gradient) > before or _find("torch:Tensor._use_count") is None


def current_stream(device: int) -> int:
    """Return the address of a device's current CUDA stream, without making an object of it."""
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    stream: int = raw(device) if raw is not None else torch.cuda.current_stream(device).cuda_stream
    return stream


def as_subclass_of(kind: type[Tensor], data: Tensor, requires_grad: bool) -> Tensor:
    """Return a tensor over `data` of class `kind`, without a call of its constructor."""
    if hasattr(Tensor, "_make_subclass"):
        return Tensor._make_subclass(kind, data, requires_grad)
    return nn.Parameter(data, requires_grad)


OPERATORS = tuple(
    filter(None, (_find("torch._ops:OpOverload"), _find("torch._ops:OpOverloadPacket")))
)
"""The classes of operators as `torch.ops` has them, also of other libraries."""


def may_be_python(func: Any) -> bool:
    """Whether a function is an operator of `torch.ops` that may be Python code, and so read what
    it is not given: torch's own, and its collectives by which DTensors are gathered, are not."""
    library = str(func).partition(".")[0] if isinstance(func, OPERATORS) else "aten"
    return library not in ("aten", "_c10d_functional")


SCRIPTED = tuple(filter(None, (torch.jit.ScriptFunction, _find("torch:_C.ScriptMethod"))))
"""The classes of what TorchScript compiles."""


READERS = tuple(
    (owner, names)
    for path, names in (
        ("torch:_C.ScriptModule", "save save_to_buffer _save_for_mobile __copy__ __deepcopy__"),
        ("torch:_C", "_freeze_module"),
        ("torch:_C._nested", "nested_tensor"),
    )
    if (owner := _find(path)) is not None
)
"""Bindings that read tensors, by what has them."""


def c10d() -> Any:
    """Return the bindings of torch.distributed; None in a build without it."""
    return _find("torch._C._distributed_c10d") if torch.distributed.is_available() else None


def hooks_of(tensor: Tensor) -> dict[str, Any]:
    """Return the hooks of the backward pass, by the attributes that hold them."""
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return {name: hooks for name in names if (hooks := getattr(tensor, name, None)) is not None}


FLAT_WEIGHT_REFS = "_flat_weight_refs"


def flat_weight_refs(module: nn.RNNBase) -> list[Any]:
    """Return the weak references that a recurrent module holds to its parameters."""
    return [ref for ref in getattr(module, FLAT_WEIGHT_REFS, ()) if ref is not None]


def renew_flat_weight_refs(module: nn.RNNBase) -> None:
    """Let a recurrent module hold references to the parameters that it has."""
    weights = module._flat_weights
    refs = [None if weight is None else weakref.ref(weight) for weight in weights]
    setattr(module, FLAT_WEIGHT_REFS, refs)


def local_tensor(tensor: Any) -> Tensor:
    """Return the part of a DTensor that this rank holds."""
    local: Tensor | None = getattr(tensor, "_local_tensor", None)
    return tensor.to_local() if local is None else local


def strided_shard() -> Any:
    """Return the placement class of FSDP over tensor parallelism; None if torch has none."""
    return _find("torch.distributed.tensor.placement_types:_StridedShard")
