"""The replay of a model's own initialisation, for models that were made on the meta device.

A replay does what construction did: it initialises every module by its `reset_parameters`, children
first, and then runs the root's `init_weights` over them. What a constructor does besides, a replay
does not know; but torch counts the writes to a tensor, on meta too, so that `lost_writes` can tell.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.models.memory import snapshot
from fastinit.plan.current import suspended
from fastinit.tensors.meta import is_meta, on_meta
from fastinit.tensors.shards import is_dtensor
from fastinit.tensors.torch_private import unwatched, version
from fastinit.tensors.walk import exchange, named_tensors, slots, walk

Init = Callable[[Any], object]

_RESETS = ("reset_parameters", "_reset_parameters")
# By which libraries mark what is initialised, and leave it alone the next time.
_FLAGS = ("_is_hf_initialized", "_is_init", "_hf_initialized")


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
        self._init = init or init_weights_of(model)
        self.has_own = self._init is not None
        self.ran_in_constructor = any(vars(owner).get(_FLAGS[0]) for owner in _owners(model))
        bare = {name for name, tensor in named_tensors(walk(model)) if is_meta(tensor)}
        above = {name[: end + 1] for name in bare for end in _dots(name)} | {""}
        self._bare = [module for prefix, module in reversed(walk(model)) if prefix in above]

    def run(self) -> None:
        """Initialise what was on meta, and has memory now; parameters that had some stay."""
        with _flags_cleared(self._model), torch.no_grad():
            self._reset()
            self._run_own()

    def lost_writes(self) -> list[str]:
        """Return the names of tensors on meta that the constructor wrote more often than a replay.

        Writes by `.data` are not counted, nor are those to tensors that were copied or sharded
        since.

        Raises:
            Exception: what the model's code raises on meta.
        """
        original = {
            name: version(tensor) or 0
            for name, tensor in named_tensors(walk(self._model))
            if is_meta(tensor) and not is_dtensor(tensor)
        }
        with _untouched(self._model), _flags_cleared(self._model), torch.no_grad():
            exchange(walk(self._model), on_meta)
            first = dict(named_tensors(walk(self._model)))
            self._reset()
            reset = {name: version(tensor) or 0 for name, tensor in first.items()}
            if any(count > reset.get(name, 0) for name, count in original.items()):
                self.ran_in_constructor = True
            self._run_own()
            replayed = {name: version(tensor) or 0 for name, tensor in first.items()}
        return [name for name, count in original.items() if count > replayed.get(name, 0)]

    def _reset(self) -> None:
        with _untied(self._model):
            for module in self._bare:
                for name in _RESETS:
                    if callable(reset := getattr(module, name, None)):
                        reset()
                        break

    def _run_own(self) -> None:
        if self._init is None:
            return
        if not self.ran_in_constructor:
            self._init(self._model)
            return
        with _untied(self._model):
            self._init(self._model)


def _dots(name: str) -> Iterator[int]:
    return (n for n, letter in enumerate(name) if letter == ".")


def init_weights_of(model: nn.Module) -> Init | None:
    """Return a call of the root's `init_weights`, also if it is wrapped; None without one.

    Raises:
        TypeError: it takes arguments that have no defaults.
    """
    for prefix, module in walk(model):
        own = getattr(module, "init_weights", None)
        if prefix != "" or not callable(own):
            continue
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
    resets = {
        id(module._parameters)
        for _, module in walk(model)
        if any(callable(getattr(module, name, None)) for name in _RESETS)
    }
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
    try:
        with suspended():
            yield
    finally:
        torch.default_generator.set_state(torchs)
        random.setstate(python)
        restore()
