"""The table of effects: which calls it knows, and that it says of each what torch does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from fastinit import fused
from fastinit.capture.arguments import parsed_fill
from fastinit.capture.effects import EFFECTS, FILLS, MOVES, Effect
from fastinit.capture.mode import _HANDLERS
from fastinit.capture.replacements import replacement_of
from fastinit.kernels.distributions import CONSTANT, UNIFORM


def test_every_effect_is_handled() -> None:
    """LOOK is passed through before the handlers are asked; READ is what is in no table."""
    assert set(_HANDLERS) | {Effect.LOOK} == set(Effect)
    assert set(EFFECTS.values()) | {Effect.READ} == set(Effect)
    assert set(FILLS) | {Tensor.zero_} == {f for f, e in EFFECTS.items() if e is Effect.FILL}
    assert set(MOVES) == {f for f, e in EFFECTS.items() if e is Effect.MOVE}


def looks() -> list[str]:
    named = [f.__name__ for f, e in EFFECTS.items() if e is Effect.LOOK]
    return sorted(name for name in named if not name.startswith("__"))


@pytest.mark.parametrize("effect", [Effect.LOOK, Effect.ALLOCATE])
def test_what_reads_nothing_works_without_memory(effect: Effect) -> None:
    """Oracle: torch's meta device, which has no element to read. Every function of the table that
    can be called with a tensor alone gives the same metadata there."""
    tried = Counter()
    for func in (f for f, e in EFFECTS.items() if e is effect):
        answers: list[Any] = []
        for device in ("cpu", "meta"):
            x = torch.zeros(2, 3, device=device)
            try:
                answer = func(x)
            except (TypeError, RuntimeError):
                continue
            answers.append(tuple(answer.shape) if isinstance(answer, Tensor) else None)
        if answers:
            tried[func.__name__] += 1
            assert len(answers) == 2 or func.__name__ in ("untyped_storage",), func
            assert answers[0] == answers[1], func
    assert len(tried) > (0 if effect is Effect.ALLOCATE else 20)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ((Tensor.uniform_, (0, 2.0), {}), (UNIFORM, (0, 2.0))),
        ((Tensor.uniform_, (), {"from": -1.0}), (UNIFORM, (-1.0, 1.0))),
        ((Tensor.uniform_, (-1.0,), {"to": 3.0}), (UNIFORM, (-1.0, 3.0))),
        ((Tensor.fill_, (3,), {}), (CONSTANT, (3,))),
        ((Tensor.fill_, (), {"value": 3}), (CONSTANT, (3,))),
        ((Tensor.zero_, (), {}), (CONSTANT, (0.0,))),
        ((Tensor.fill_, (), {}), None),
        ((Tensor.fill_, (3,), {"generator": torch.Generator()}), None),
        ((Tensor.normal_, (0.0, 1.0, 2.0), {}), None),
        ((Tensor.normal_, (0.0,), {"mean": 1.0}), None),
        ((Tensor.normal_, (), {"sigma": 1.0}), None),
        ((Tensor.zero_, (1,), {}), None),
    ],
)
def test_arguments_of_fills(call: Any, expected: Any) -> None:
    """Torch refuses what has no parse; what has one, it accepts."""
    func, args, kwargs = call
    x = torch.empty(3)
    parsed = parsed_fill(func, (x, *args), kwargs)
    if expected is None:
        assert parsed is None
        with pytest.raises((TypeError, RuntimeError)):
            func(x, *args, **kwargs)
    else:
        assert parsed is not None
        assert (parsed[1], parsed[2]) == expected
        func(x, *args, **kwargs)


def test_torchs_functions_have_their_replacements() -> None:
    for name in ("normal_", "uniform_", "constant_", "kaiming_uniform_"):
        assert replacement_of(getattr(torch.nn.init, name)) is not None
    assert replacement_of(torch.nn.init.orthogonal_) is None
    assert replacement_of(Tensor.normal_) is None


def test_an_unknown_call_finds_what_it_reads() -> None:
    with fused(seed=0):
        x = torch.empty(9).normal_()
        y = torch.special.erf(x)  # in no table
    assert torch.equal(y, torch.special.erf(x))
