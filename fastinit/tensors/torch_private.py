"""The private names of torch that fastinit uses, all of them, and substitutes for missing ones.

A new version of torch needs changes in this file alone. `NAMES` lists each name with the versions
that have it and what is lost without it; `missing` returns those that this torch lacks, for
`show_config` and the tests. The registries of `nn.Module` (`_modules`, `_parameters`, `_buffers`
and the loading hooks) are listed here and used in other files: nothing could replace them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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
    Private("torch:UntypedStorage._cdata", _SEEN, "only single fills work", True),
    Private("torch.nn:Module._modules", _SEEN, "nothing works"),
    Private("torch.nn:Module._parameters", _SEEN, "nothing works"),
    Private("torch.nn:Module._buffers", _SEEN, "nothing works"),
    Private("torch.nn:Module._apply", _SEEN, "materialize fails"),
    Private("torch.nn:Module._load_from_state_dict", _SEEN, "Pretrained fails"),
    Private("torch.nn:Module._load_state_dict_post_hooks", _SEEN, "Pretrained fails"),
    Private("torch.multiprocessing.reductions:StorageWeakRef", _SEEN, "plans keep memory alive"),
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


_probe = torch.empty(1, device="cpu")


def _find(path: str, default: Any = None) -> Any:
    try:
        return resolve_name(path)
    except (ImportError, AttributeError):
        return default


def missing(wanted: Sequence[Private] = NAMES) -> list[Private]:
    """Return those of the names that this torch lacks."""
    # Instances, for attributes that their classes do not show.
    made = {"torch.nn:Module": nn.Module(), "torch:UntypedStorage": _probe.untyped_storage()}
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
disabled_dispatch: Any = _find("torch:_C._disabled_torch_dispatch_impl", object())
disabled_function: Any = _find("torch:_C._disabled_torch_function_impl", object())
set_grad_enabled: Any = _find("torch:_C._set_grad_enabled")
parse_to: Callable[..., Any] | None = _find("torch:_C._nn._parse_to")
_trunc_normal = _find("torch.nn.init:_no_grad_trunc_normal_", nn.init.trunc_normal_)
# Not our patch of it, which an import of fastinit before this one may have left there.
eager_trunc_normal: Callable[..., Tensor] = getattr(_trunc_normal, "_fastinit_eager", _trunc_normal)


class _Held:
    """A substitute for torch's weak reference to a storage, which keeps the memory alive."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._storage = storage


Held: Any = _find("torch.multiprocessing.reductions:StorageWeakRef", _Held)
"""A class whose objects keep a storage's id from being reused, without keeping its memory."""


def storage_id(storage: torch.UntypedStorage) -> int:
    """Return the identity of a storage among all that are alive."""
    number: int = storage._cdata
    return number


def storage_key(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage: equal for views, `.data` and tied parameters."""
    key: int = tensor.untyped_storage()._cdata
    return key


def version(tensor: Tensor) -> int | None:
    """Return autograd's count of writes to a tensor; None if it keeps none."""
    return None if tensor.is_inference() else getattr(tensor, "_version", None)


_use_count = _find("torch:_C._storage_Use_Count")


def storage_users(storage: int) -> int:
    """Return how many tensors share the storage of an id; 2^30 if torch does not tell."""
    return int(_use_count(storage)) - _KEPT if _use_count is not None else 1 << 30


# Some versions of torch also count the Python object of a storage, if it ever had one.
_KEPT = 0
if _use_count is not None and hasattr(_probe.untyped_storage(), "_cdata"):
    _KEPT = storage_users(storage_id(_probe.untyped_storage())) - 1


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


def hooks_of(tensor: Tensor) -> dict[str, Any]:
    """Return the hooks of the backward pass, by the attributes that hold them."""
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return {name: hooks for name in names if (hooks := getattr(tensor, name, None)) is not None}


def local_tensor(tensor: Any) -> Tensor:
    """Return the part of a DTensor that this rank holds."""
    local: Tensor | None = getattr(tensor, "_local_tensor", None)
    return tensor.to_local() if local is None else local


def strided_shard() -> Any:
    """Return the placement class of FSDP over tensor parallelism; None if torch has none."""
    return _find("torch.distributed.tensor.placement_types:_StridedShard")
