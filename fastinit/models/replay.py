"""The replay of a model's own initialisation, for models that were made on the meta device.

A replay does what construction did: it initialises every module by its `reset_parameters`, children
first, and then runs the root's `init_weights` over them. What a constructor does besides, a replay
does not know; but torch counts the writes to a tensor, on meta too, so that `lost` can tell.
"""

from __future__ import annotations

import copy
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fastinit.capture.means import Unread
from fastinit.models.constructors import (
    initialises_unseen,
    passes_arguments,
    runs_init_weights,
    writes_unseen,
)
from fastinit.models.memory import snapshot
from fastinit.plan.current import suspended
from fastinit.tensors.meta import is_meta, on_meta
from fastinit.tensors.shards import is_dtensor
from fastinit.tensors.torch_private import unwatched, version
from fastinit.tensors.walk import exchange, named_tensors, slots, walk

if TYPE_CHECKING:
    from fastinit._C import Recorder

Init = Callable[[Any], object]

_RESETS = ("reset_parameters", "_reset_parameters")
# By which libraries mark what is initialised, and leave it alone the next time.
_FLAGS = ("_is_hf_initialized", "_is_init", "_hf_initialized")


class Lost(NamedTuple):
    """What a constructor did that a replay does not.

    Attributes:
        written: names of tensors on meta that it wrote more often, as torch counts, or replaced.
            (Writes by `.data` are not counted, nor are those to tensors that were sharded since.)
        unseen: classes whose code seems to write, uncounted, what a replay does not write.
        called: classes whose constructors give arguments to what a replay calls without.
        tied: names of tied tensors of which it cannot be told which layer initialised them.
        fresh: names of parameters that have memory, which nothing has written, and a replay would.
        is_told: whether torch's counts tell: not of a model that was sharded or moved to meta.
    """

    written: list[str]
    unseen: list[str]
    called: list[str]
    tied: list[str]
    fresh: list[str]
    is_told: bool


class Replay:
    """The replay of one model's initialisation.

    Args:
        model: the model.
        init: is run over the model in the place of its `init_weights`.

    Attributes:
        has_own: whether there is more to run than `reset_parameters`.
        ran_in_constructor: whether the constructor has run `init_weights`, before it tied weights.
    """

    def __init__(self, model: nn.Module, init: Init | None = None) -> None:
        self._model = model
        self._given = init
        self._init = init or init_weights_of(model)
        self.has_own = self._init is not None
        self.ran_in_constructor = any(vars(owner).get(_FLAGS[0]) for owner in _owners(model))
        named = list(named_tensors(walk(model)))
        bare = {name for name, tensor in named if is_meta(tensor)} or {name for name, _ in named}
        above = {name[: end + 1] for name in bare for end in _dots(name)} | {""}
        self._bare = [module for prefix, module in reversed(walk(model)) if prefix in above]

    def run(self) -> None:
        """Initialise what was on meta, and has memory now; parameters that had some stay."""
        with _flags_cleared(self._model), torch.no_grad():
            self._reset()
            self._run_own()

    def lost(self) -> Lost:
        """Return what the constructor did that a replay does not.

        Raises:
            Exception: what the model's code raises on meta.
        """
        modules = walk(self._model)
        named = list(named_tensors(modules))
        original = {
            name: version(tensor) or 0
            for name, tensor in named
            if is_meta(tensor) and not is_dtensor(tensor)
        }
        fresh = [
            name
            for name, tensor in named
            if isinstance(tensor, nn.Parameter)
            and not (is_meta(tensor) or is_dtensor(tensor) or vars(tensor).get(_FLAGS[0]))
            and version(tensor) == 0
        ]
        reset, replayed = self.counts(original)
        # What the root's init_weights writes after a child's constructor is its own.
        left = [name for name, tensor in named if is_meta(tensor) and replayed[name] == reset[name]]
        unseen, called = set(), set()
        for prefix, module in modules:
            kind: Any = type(module)
            is_root = prefix == "" and self._given is None
            if not is_root and not any(name.startswith(prefix) for name in left):
                continue
            if writes_unseen(kind, prefix == "") and any(name.startswith(prefix) for name in left):
                unseen.add(kind.__name__)
            if passes_arguments(kind, is_root):
                called.add(kind.__name__)
        # Fewer writes than a layer's own reset: not what its constructor made, or a copy of it.
        parameters = {name for name, tensor in named if isinstance(tensor, nn.Parameter)}
        is_told = any(original.get(name) for name in parameters)
        least = reset if is_told else {}
        return Lost(
            [
                name
                for name, count in original.items()
                if count > replayed[name] or (name in parameters and count < least.get(name, 0))
            ],
            sorted(unseen),
            sorted(called),
            self._undecided(original, left),
            [name for name in fresh if replayed[name] > 0],
            is_told or not any(reset[name] for name in parameters),
        )

    def counts(self, original: dict[str, int] | None = None) -> tuple[dict[str, int], ...]:
        """Return how often each tensor is written, on meta: by the resets, and by the whole replay.

        What an `init_weights` resets once more does not count: called in a constructor, it need
        not. `original`: how often the constructor wrote them.
        """
        with self._on_twin() as (replay, first):

            def counted() -> dict[str, int]:
                return {name: version(tensor) or 0 for name, tensor in first.items()}

            replay._reset()
            reset = counted()
            if original and any(count > reset.get(name, 0) for name, count in original.items()):
                self.ran_in_constructor = replay.ran_in_constructor = True
            for module in replay._bare:
                vars(module).update(dict.fromkeys(_RESETS, _nothing))
            replay._run_own()
            return reset, counted()

    def _undecided(self, original: dict[str, int], left: list[str]) -> list[str]:
        """Return tensors that layers of different classes hold, each of which would have written
        them as often as the constructor has."""
        owners: dict[int, list[tuple[str, str, object]]] = {}
        for prefix, module in walk(self._model):
            reset = _reset_of(module)
            for key, tensor in module._parameters.items() if reset else ():
                code = getattr(reset, "__func__", reset)
                owners.setdefault(id(tensor), []).append((prefix, prefix + key, code))
        shared = [
            tied
            for tied in owners.values()
            if len({code for _, _, code in tied}) > 1
            and tied[0][1] in left
            and tied[0][1] in original
        ]
        found = []
        if shared:
            with self._on_twin() as (replay, tensors):
                modules = dict(walk(replay._model))
                for tied in shared:
                    counts = []
                    for prefix, name, _ in tied:
                        before = version(tensors[name]) or 0
                        _reset_of(modules[prefix])()  # type: ignore[misc]
                        counts.append((version(tensors[name]) or 0) - before)
                    if counts.count(original[tied[0][1]]) > 1:
                        found.append(tied[0][1])
        return found

    @contextmanager
    def _on_twin(self) -> Iterator[tuple[Replay, dict[str, Tensor]]]:
        """Make a copy of the model on meta; yield its replay, and its tensors by name."""
        with _untouched(self._model):
            exchange(walk(self._model), on_meta)
            twin = copy.deepcopy(self._model)  # of which lists and counters are its own
        with _untouched(twin), _flags_cleared(twin), torch.no_grad(), Unread():
            replay = Replay(twin, self._given)
            replay.ran_in_constructor = self.ran_in_constructor
            yield replay, dict(named_tensors(walk(twin)))

    def _reset(self) -> None:
        with _untied(self._model):
            for module in self._bare:
                if reset := _reset_of(module):
                    reset()

    def _run_own(self) -> None:
        if self._init is None:
            return
        if not self.ran_in_constructor:
            self._init(self._model)
            return
        with _untied(self._model):
            self._init(self._model)


def _reset_of(module: nn.Module) -> Callable[[], object] | None:
    methods = (getattr(module, name, None) for name in _RESETS)
    return next((method for method in methods if callable(method)), None)


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def is_unrun(model: nn.Module, recorder: Recorder) -> bool:
    """Whether a model that was just made has an `init_weights` that nothing seems to have run.

    The recorder knows how often each parameter was written. Where most were written again after
    their layers' `reset_parameters`, or some and the constructor names it, it ran; else a copy's
    run on meta tells what it would write.
    """
    own = next((m for prefix, m in walk(model) if prefix == "" and _has_init_weights(m)), None)
    if own is None or any(vars(owner).get(_FLAGS[0]) for owner in _owners(model)):
        return False
    if isinstance(ran := getattr(own, "_is_init", None), bool):
        return not ran
    parameters = dict(model.named_parameters())
    times = {name: recorder.times_written(p) for name, p in parameters.items()}
    kind: Any = type(own)
    again = sum(count > 1 for count in times.values())
    if 2 * again >= len(times) or (again and runs_init_weights(kind)):
        return False
    try:
        reset, replayed = Replay(model).counts()
    except Exception:  # it takes arguments, or does not run on meta: it is not known what it writes
        return all(count <= 1 for count in times.values())
    times |= {name: recorder.times_written(buffer) for name, buffer in model.named_buffers()}
    writes = [name for name in times if replayed.get(name, 0) > reset.get(name, 0)]
    if not writes:
        return initialises_unseen(kind) and all(times[name] <= 1 for name in parameters)
    return not any(times[name] > min(1, reset.get(name, 0)) for name in writes)


def _has_init_weights(module: nn.Module) -> bool:
    return callable(getattr(module, "init_weights", None))


def _dots(name: str) -> Iterator[int]:
    return (n for n, letter in enumerate(name) if letter == ".")


def init_weights_of(model: nn.Module) -> Init | None:
    """Return a call of the root's `init_weights`, also if it is wrapped; None without one.

    Raises:
        TypeError: it takes arguments that have no defaults.
    """
    for prefix, module in walk(model):
        if prefix != "" or not _has_init_weights(module):
            continue
        own: Any = module.init_weights
        try:
            required = [
                name
                for name, parameter in inspect.signature(own).parameters.items()
                if parameter.default is parameter.empty
                and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            ]
        except ValueError:  # no signature, as of a function in C
            required = []
        if required:
            raise TypeError(
                f"{type(module).__name__}.init_weights takes {', '.join(required)}; pass "
                f"init=lambda m: m.init_weights({required[0]}=...)"
            )
        return lambda _, own=own: own()  # type: ignore[misc]
    return None


def _owners(model: nn.Module) -> Iterator[Any]:
    """Yield the modules, and their parameters."""
    for _, module in walk(model):
        yield module
        yield from (p for p in module._parameters.values() if p is not None)


@contextmanager
def _flags_cleared(model: nn.Module) -> Iterator[None]:
    """Take away the marks of what is initialised; put back those that the block has not made."""
    before = [
        (vars(owner), {flag: vars(owner)[flag] for flag in _FLAGS if flag in vars(owner)})
        for owner in _owners(model)
    ]
    for own, flags in before:
        for flag in flags:
            if flag == "_is_init":
                own[flag] = False
            else:
                del own[flag]
    try:
        yield
    finally:
        for own, flags in before:
            for flag, value in flags.items():
                if not own.get(flag):
                    own[flag] = value


@contextmanager
def _untied(model: nn.Module) -> Iterator[None]:
    """Put stand-ins on meta in all places of a tied tensor but the first that a module resets.

    When a constructor initialises a layer, its weight is its own still; what is written there is
    lost when it is tied.
    """
    resets = {id(module._parameters) for _, module in walk(model) if _reset_of(module)}
    places: dict[int, list[tuple[dict[str, Any], str, Tensor]]] = {}
    for _, group, key, tensor in slots(walk(model)):
        places.setdefault(id(tensor), []).append((group, key, tensor))
    others = []
    for tied in places.values():
        own = next((n for n, (group, _, _) in enumerate(tied) if id(group) in resets), 0)
        others += tied[:own] + tied[own + 1 :]
    with unwatched():
        for group, key, tensor in others:
            group[key] = on_meta(tensor)
    try:
        yield
    finally:
        for group, key, tensor in others:
            if key in group:
                group[key] = tensor


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Leave no trace of the block: of modules, open plans, and what random functions draw from."""
    restore = snapshot(model)
    python, torchs = random.getstate(), torch.default_generator.get_state()
    numpy = sys.modules.get("numpy")
    numpys = None if numpy is None else numpy.random.get_state()
    try:
        with suspended():
            yield
    finally:
        torch.default_generator.set_state(torchs)
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(numpys)
        restore()
