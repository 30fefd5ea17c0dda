"""The table of effects: which calls it knows, and that it says of each what torch does."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import fastinit
from fastinit import fused
from fastinit.capture.arguments import parsed_fill
from fastinit.capture.effects import EFFECTS, FILLS, MOVES, Effect
from fastinit.capture.mode import _HANDLERS
from fastinit.capture.replacements import _BY_CODE, replacement_of
from fastinit.kernels.distributions import CONSTANT, UNIFORM


def test_every_effect_is_handled() -> None:
    """LOOK is passed through before the handlers are asked; READ is what is in no table."""
    assert set(_HANDLERS) | {Effect.LOOK} == set(Effect)
    assert set(EFFECTS.values()) | {Effect.READ} == set(Effect)
    assert set(FILLS) | {Tensor.zero_} == {f for f, e in EFFECTS.items() if e is Effect.FILL}
    assert set(MOVES) == {f for f, e in EFFECTS.items() if e is Effect.MOVE}


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
        with fused():
            waiting = torch.empty(3).fill_(2.0)
            with pytest.raises((TypeError, RuntimeError)):
                func(waiting, *args, **kwargs)
        assert waiting.tolist() == [2.0] * 3
    else:
        assert parsed is not None
        assert (parsed[1], parsed[2]) == expected
        func(x, *args, **kwargs)


def test_torchs_functions_have_their_replacements() -> None:
    for name in ("normal_", "uniform_", "constant_", "kaiming_uniform_", "orthogonal_"):
        assert replacement_of(getattr(torch.nn.init, name)) is not None
    assert replacement_of(torch.nn.init.sparse_) is None
    assert replacement_of(Tensor.normal_) is None


def test_an_unknown_call_finds_what_it_reads() -> None:
    with fused(seed=0):
        x = torch.empty(9).normal_()
        y = torch.special.erf(x)  # in no table
    assert torch.equal(y, torch.special.erf(x))


WRAPPED = """
    import functools, torch
    from torch import nn

    def wrap(function, is_named):
        def inner(*args, **kwargs):
            return function(*args, **kwargs)
        return functools.wraps(function)(inner) if is_named else inner

    own = {name: getattr(nn.init, name) for name in nn.init.__dict__ if name.endswith("l_")}
    for name, function in own.items():
        setattr(nn.init, name, wrap(function, %s))
    import fastinit

    with fastinit.fan_groups({"other": 2}), fastinit.fused(seed=0):
        x = nn.init.normal_(torch.empty(4000, 10), 5.0, 2.0)
        y = nn.init.xavier_normal_(torch.empty(400, 100), gain=3.0)
        z = nn.init.kaiming_normal_(torch.empty(400, 100), nonlinearity="relu")
    stds = [float(t.std()) for t in (x, y, z)]
    wanted = [2.0, 3.0 * (2 / 500) ** 0.5, (2 / 100) ** 0.5]
    assert all(abs(a / b - 1) < 0.02 for a, b in zip(stds, wanted)), (stds, wanted)
    assert abs(float(x.mean()) - 5.0) < 0.1
"""


@pytest.mark.parametrize("is_named", [True, False])
def test_functions_that_others_wrapped_before_the_import_keep_their_laws(is_named: bool) -> None:
    code = textwrap.dedent(WRAPPED % is_named)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_rules_by_fans_are_known_by_their_code() -> None:
    """Others may go on to fill parts, which would be taken for the whole, and for ever."""
    names = {code.co_name for code in _BY_CODE}
    assert names == {"xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"}


def test_a_truncated_normal_beyond_reach_under_fan_groups() -> None:
    with fastinit.fan_groups({"other": 2}), fused(seed=0):
        x = torch.nn.init.trunc_normal_(torch.empty(3), mean=0.0, std=0.02, a=1.0, b=2.0)
    assert ((x >= 1.0) & (x <= 2.0)).all()
