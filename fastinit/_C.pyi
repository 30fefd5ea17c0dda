"""The native fills of stream v1 (csrc/bindings.cpp)."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from typing_extensions import Buffer

KINDS: tuple[str, ...]  # names of the distributions, indexed by kind
DTYPES: tuple[str, ...]  # likewise
CONSTANT: int
UNIFORM: int
NORMAL: int
TRUNC_NORMAL: int
WORDS: int
FLOAT32: int
FLOAT16: int
BFLOAT16: int
FLOAT64: int
UINT32: int

class OverlapError(ValueError):
    """Two rows of a table write the same memory."""

def fill(table: Sequence[tuple[Any, ...]], threads: int = 1, isa: str | None = None) -> None:
    """Fill memory by every row (kind, dtype, pointer, seed, stream, start, box, p0, p1, p2, p3).

    `box` is a number of elements, contiguous in memory and in logical index, or a tuple of
    (size, memory_stride, index_stride), in elements, for each dimension. ValueError (OverlapError
    among them) and TypeError are raised before anything is written. The memory must stay alive and
    unshared during the call, which releases the GIL. On the main thread signals are handled within
    about a tenth of a second; if a handler raises (KeyboardInterrupt), the fill ends, and memory
    is written in part.
    """

class CudaError(RuntimeError):
    """An error of the CUDA driver, with its message."""

class NoKernelError(CudaError):
    """The build, or the given image, has no code for the GPU."""

CUDA_ARCHS: str  # compute capabilities of the build, "7.5 9.0+PTX"; empty without nvcc
CUDA_INLINE_BYTES: int  # the longest batch that a launch can pass by value
CUDA_SOURCE: str  # the kernel's source in one piece, for NVRTC

class CudaBatch(Buffer):
    """The table of one launch as the GPU reads it, `tiles` thread blocks; a buffer of bytes."""

    nbytes: int
    tiles: int

class NativeRows:
    """The rows of a table as a recorder has them: a capsule."""

def cuda_pack(
    table: Sequence[tuple[Any, ...]] | NativeRows, limit: int = 0, tile_units: int = 0
) -> list[CudaBatch]:
    """Return the table in as few batches of at most `limit` bytes as possible (0: one batch).

    `tile_units` is the number of 16-byte units that a thread block fills; 0 chooses. Raises as
    `fill` does. Of a recorder's rows torch has said that they are memory of the GPU; others are
    looked up when they are launched.
    """

def cuda_is_capturing(device: int, stream: int) -> bool:
    """Return whether a stream of a loaded device is being captured in a CUDA graph."""

def cuda_load(device: int, image: bytes | None = None) -> None:
    """Load the kernel on a device, once: from `image`, or by default from the build.

    Raises NoKernelError, or another CudaError.
    """

def cuda_launch(device: int, stream: int, batch: CudaBatch, table: int = 0) -> None:
    """Launch a fill on a stream of a loaded device, without waiting for it. Raises CudaError.

    `table` is the address of a copy of the batch in device memory; 0 passes the batch by value.
    """

def isas() -> tuple[str, ...]:
    """Return the instruction sets of this build that this machine has, fastest first."""

def default_isa() -> str:
    """Return the instruction set in use: FASTINIT_ISA (ValueError if it is not available), else the
    fastest."""

def normal_tail(x: float) -> float:
    """Return Phi(-x), from which the window of a truncated normal is derived."""

def truncation_reach(dtype: int) -> float:
    """Return how far from the mean a truncation window may begin, in standard deviations."""

# --- the recorder (csrc/record/) ------------------------------------------------------------------

Parameters = tuple[float, float, float, float]

class Recorder:
    """The records of one plan that wait, by the key of the storage that they write
    (`tensors.storage`); which names tensors have; and what was drawn from the stream of each.

    Args:
        keeps_account: whether writes of any memory may wait, and are booked for a manifest.
        seed: the 64-bit Philox key of fills without a seed of their own.
        groups: `fan_groups.blocks_by` of the fan groups in force; None without.

    Attributes:
        origin: the rule of an init_cfg in force, in words; None if code itself asks for fills.
        has_casts: whether a cast waits or has waited; if not, `awaiting` is always empty.
        clock: counts writes.
        seed: as given; ranks may agree on another one.
        prefix: of the names "#n"; empty by default.
        streams: by GPU, the places where fills may wait; of other GPUs the default streams.
        has_launches: whether fills, copies or casts on GPUs may wait; not while they are executed.
    """

    origin: str | None
    seed: int
    prefix: str
    streams: Sequence[tuple[int, int]]

    def __init__(
        self, keeps_account: bool, seed: int, groups: Callable[..., Any] | None
    ) -> None: ...
    @property
    def has_casts(self) -> bool: ...
    @property
    def has_launches(self) -> bool: ...
    @property
    def clock(self) -> int: ...
    def __bool__(self) -> bool:
        """Whether anything waits."""

    def __contains__(self, storage: int) -> bool:
        """Whether anything waits for this storage."""

    # Names.
    def add_name(self, name: str, tensor: Tensor, owner: Tensor | None = None) -> None:
        """Name a tensor. The first name of a tensor is its stream's. `owner` is the DTensor whose
        local part it is."""

    def add_names(
        self,
        modules: list[tuple[str, Any]],
        prefix: str,
        memory_of: Callable[[str, Tensor], Tensor | None],
    ) -> None:
        """Name the parameters and buffers of walked modules; of those whose class or memory is not
        ordinary, what `memory_of(name, tensor)` returns is named."""

    def is_shard(self, tensor: Tensor, first: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Note that a tensor is the part, from the multi-index `first` on, of one of this shape;
        return whether its storage has parts of other tensors."""

    def lent(self, whole: Tensor, local: Tensor) -> None:
        """Note that a whole tensor takes the place of a shard, under its names."""

    def returned(self, whole: Tensor, local: Tensor) -> None:
        """Note that the shard has its place again, and counts as written as the whole is."""

    def unname(self, storage: int) -> None:
        """Take away the names of the tensors of a storage."""

    def leave(self, tensor: Tensor) -> None:
        """Prepare for a tensor that leaves its memory, whose names and records stay."""

    def times_written(self, tensor: Tensor) -> int:
        """Return how often a write of all of the tensor was asked for."""

    def forget(self, storage: int) -> None:
        """Hold a storage no longer, for which nothing waits, and take away its names."""

    def is_alone(self, tensors: Sequence[Tensor]) -> bool:
        """Whether code holds no other tensors of the memory that these are of."""

    def is_escaped(self, storage: int) -> bool:
        """Whether the storage may be read and written unseen."""

    def written_since(
        self,
        module: Any,
        known: dict[int, Any],
        credited: dict[int, int],
        settled: dict[int, int],
    ) -> list[int]:
        """Return the ids of a module's parameters that were written since the clock in `credited`,
        without a look at modules whose clock in `settled` is now's.

        Raises:
            KeyError: a parameter whose id is not in `known`; the argument is its name.
        """

    def follow(self, tensor: Tensor, old: int) -> None:
        """Note that a tensor has other memory than the storage `old`: its names go along, what was
        drawn does not."""

    def has_unnamed(self) -> bool:
        """Whether memory waits in which no tensor has a name."""

    def named(self, storage: int) -> list[tuple[str, Tensor]]:
        """Return the names of the tensors of a storage."""

    def unwritten(self) -> list[tuple[str, Tensor]]:
        """Return (name, tensor) of the named tensors that are certainly not wholly written, each
        under its first name."""

    def early_names(self) -> list[str]:
        """Return the names of tensors that were drawn before they had them."""

    def order_dependent(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Return (name, shape, origin) of tensors that random values were or will be drawn for
        without a name; the name is the one that the tensor got later, or "#n"."""

    # Memory.
    def allocated(self, tensor: Tensor) -> None:
        """Note that the tensor's memory is new and unwritten."""

    def wrote(self, tensor: Tensor) -> None:
        """Note that the tensor's memory counts as written now."""

    def written_at(self, storage: int) -> int:
        """Return the clock at the last write to a storage; 0 if there was none."""

    def computed(self, tensor: Tensor) -> None:
        """Note that code wrote this memory, not by a fill."""

    def copied(self, tensor: Tensor) -> None:
        """Note that a copy to the tensor that waited is executed."""

    def escaped(self, tensor: Tensor) -> None:
        """Let no writes of this memory wait any more."""

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /
    ) -> Any:
        """Call a function of torch, of which the plan's mode sees nothing: what it calls back into
        has its fills executed at once."""

    def is_calling(self) -> bool:
        """Return whether `call` is running."""

    def hold_no_views(self) -> None:
        """Hold other tensors in the place of views, which hold the tensor that they are one of."""

    def retired(self, tensor: Tensor) -> int:
        """Prepare for a tensor that gets other memory: what waits stays with the memory. Return the
        storage that it has now."""

    def has_no_values(self, tensor: Tensor) -> bool:
        """Whether no write of the memory has happened or waits since its allocation."""

    def is_unwritten(self, tensor: Tensor) -> bool:
        """Whether part of the memory is certainly unwritten since its allocation."""

    def moved(self, old: int, flat: Tensor, distance: int) -> None:
        """Note that `flat`, all of other memory, `distance` bytes away, takes the place of the
        storage `old`, with its names and its past."""

    # What waits.
    def record(self, record: Any) -> bool:
        """Let a record wait, tell autograd of it, and return whether it may wait at all."""

    def may_wait(self, tensor: Tensor) -> bool:
        """Whether writes of the tensor's memory may wait."""

    def last_fill(self, tensor: Tensor) -> Any:
        """Return the record that waits last for the tensor's memory, if it fills exactly this
        tensor; else None."""

    def replace_last(self, fill: Any) -> None:
        """Put a fill in the place of `last_fill(fill.tensor)`, as one more write."""

    def add(self, record: Any) -> None:
        """Let a record wait, and drop those that it covers: the last write wins."""

    def void(self, tensor: Tensor) -> None:
        """Drop the records that a write of all of `tensor` would overwrite."""

    def put(self, storage: int, records: list[Any]) -> None:
        """Let these records wait for the storage, and no others."""

    def of(self, storage: int) -> list[Any]:
        """Return the records that wait for this storage, in order."""

    def pop(self, storage: int) -> list[Any]:
        """Remove and return the records that wait for the storage."""

    def storages(self) -> list[int]:
        """Return all storages with waiting records, in the order of their first records."""

    def waiting_in(self, value: Any) -> list[int] | None:
        """Return the storages, of the tensors in nested lists, tuples and dictionaries, that writes
        or casts from them wait for; None if one of the tensors has no storage to tell."""

    def cast_to(self, storage: int) -> Any:
        """Return the first record that waits for this storage, if it is a cast; else None."""

    def awaiting(self, storage: int) -> list[int]:
        """Return the storages with a waiting cast from this storage."""

    def pop_casts_from(self, storage: int) -> list[Any]:
        """Remove and return the waiting casts from this storage."""

    def is_orphan(self, storage: int) -> bool:
        """Whether only records still hold the memory, as of a weight replaced by a tied one."""

    def clear(self) -> None:
        """Drop all records."""

    # Execution. `executed(storage, record)` carries out copies and casts, and is told of fills,
    # with None, in a dry run; `launch(place, rows)` fills on a GPU.
    def execute(
        self,
        storages: Sequence[int],
        executed: Callable[..., object],
        launch: Callable[..., object],
    ) -> None:
        """Execute what waits for these storages. What fails, and what was not written yet, stays.

        Raises:
            ValueError: fan groups that do not fit a tensor; with an account, after all other fills.
            RuntimeError: a tensor whose storage was resized while its fill waited.
        """

    def finish(self, executed: Callable[..., object], launch: Callable[..., object]) -> None:
        """Execute everything, except for memory that no code holds any more."""

    def closed(self) -> None:
        """Hold no memory any more, for want of further writes; manifests still work."""

    def book(self, storages: Sequence[int]) -> None:
        """Count the fills that wait as drawn, and drop them."""

    def entries(self) -> list[tuple[Any, ...]]:
        """Return what a manifest tells of each tensor, with what waits counted as executed:
        (name, tensor or (shape, dtype's number), aliases, status, drawn, writes)."""

def write(
    tensor: Tensor,
    kind: int,
    parameters: tuple[Any, ...],
    generator: Any = None,
    fan_rule: Any = None,
    /,
) -> bool:
    """See `fastinit.plan.write.write`."""

def bind(names: dict[str, Any]) -> None:
    """Take what the recorder asks of torch, see `torch_private.for_recorder`."""

def use(fill: type, copy: type, cast: type, write: Callable[..., bool]) -> None:
    """Take the classes of records, and the function for tensors that `write` does not serve."""

def enable(is_native: bool) -> None:
    """Let `write` serve tensors itself, or leave all of them to the other function."""

def either(
    ours: Callable[..., Any],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    /,
) -> Any:
    """Call `ours` if a plan that defers is open in this thread, else `function`; within a call of
    `ours` always `function`."""

def serves(tensor: Tensor) -> bool:
    """Whether `write` serves the tensor itself for sure; False if Python has to look."""

def shape_of(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the shape of an ordinary tensor, past all function modes; None if it is none, or has
    one dimension."""

def versions(value: Any) -> list[tuple[Tensor, int | None]]:
    """Return autograd's count of writes for each tensor in nested lists, tuples and
    dictionaries; None if it keeps none."""

def has_tensors(value: Any) -> bool:
    """Whether there are tensors in nested lists, tuples and dictionaries."""

def look_for_flat(value: bool) -> None:
    """Tell whether there may be parts of FSDP's flattened parameters."""

def has_instances(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> bool:
    """Whether a tensor in nested lists, tuples and dictionaries is of this class."""

def fill_layers(
    layers: list[Any],
    first: int,
    kind: int,
    parameters: tuple[Any, ...],
    fan_rule: Callable[..., Any] | None,
    bias: float,
) -> int:
    """Record fills of `weight` and `bias` of layers, from the one with number `first` on. Return
    the number of the first one that Python has to write, or how many there are."""

def children_with(module: Any, name: str, may_have: Callable[[Any], bool]) -> list[Any]:
    """Return the children, each once, whose class may have an attribute, or that have it in their
    own dictionaries."""

def parameters_by_id(modules: list[tuple[str, Any]]) -> dict[int, Any]:
    """Return the parameters of walked modules by their ids."""

def walk(root: Any, transparent: frozenset[str], wrappers: tuple[type, ...]) -> list[Any]:
    """See `fastinit.tensors.walk.walk`."""

def post_order(root: Any, is_walked: Callable[[Any], bool]) -> list[Any] | None:
    """Return modules in the order of `Module.apply`; None where one walks by itself."""

open_recorder: ContextVar[Recorder | bool | None]
"""The recorder of the plan that is open in this context; False for a plan without one."""

def is_here(recorder: Recorder, /) -> bool:
    """Return whether the recorder's plan is the one that is open in this thread and context."""

def origin() -> str:
    """Return the line of code that asks for a fill."""

def valid_parameters(dtype: int, kind: int, given: tuple[Any, ...]) -> Parameters | None:
    """See `distributions.valid_parameters`."""

def stream_of(name: str) -> int:
    """See `streams.stream_of`."""

def watch(sizes: list[int] | None) -> None:
    """Let each table that the recorder fills append its number of rows to a list; for tests."""
