"""Arguments of `build` and `materialize` are checked first, and messages name what is meant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from modules import quiet
from torch import nn

from fastinit import build, materialize


def never() -> nn.Module:
    raise AssertionError("the arguments are looked at first")


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"device": "gpu"}, ValueError, "device must be a device of torch, such as 'cpu'"),
    ({"dtype": "bfloat16"}, TypeError, r"must be a torch\.dtype.*did you mean torch\.bfloat16"),
    ({"dtype": torch.int64}, TypeError, "must be one of floating point"),
    ({"seed": 1.5}, TypeError, "seed must be an integer"),
    ({"manifest": "/no/folder/a.json"}, FileNotFoundError, "the folder of manifest="),
]
if not torch.cuda.is_available():
    WRONG.append(({"device": "cuda"}, RuntimeError, "has no CUDA; use 'cpu'"))


@pytest.mark.parametrize(("given", "error", "text"), WRONG, ids=lambda x: str(x)[:30])
def test_arguments_are_checked_first(given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build(never, **given)
    if "device" in given:
        model = nn.Linear(2, 2, device="meta")
        with pytest.raises(error, match=text):
            materialize(model, **given)
        assert model.weight.is_meta


def test_what_is_no_model_is_told() -> None:
    with pytest.raises(TypeError, match=r"got a Linear that exists; write build\(lambda: Linear"):
        build(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="must be a function that makes the model, got 3"):
        build(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it returned a tuple of Linear, int"):
        build(lambda: (nn.Linear(2, 2), 3))  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=r"must be a module, got a class or function; build\("):
        materialize(nn.Linear)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="device must have memory, got 'meta'"):
        materialize(nn.Linear(2, 2, device="meta"), device="meta")
    with pytest.warns(UserWarning, match=r"no tensor of Linear is on meta.*fused\(seed="):
        materialize(nn.Linear(2, 2), seed=0)
    quiet(lambda: materialize(nn.Linear(2, 2)))


def test_messages_name_ten_and_count_the_rest() -> None:
    def many() -> nn.Module:
        model = nn.Module()
        for n in range(25):
            setattr(model, f"p{n}", nn.Parameter(torch.empty(2)))
        return model

    with pytest.raises(ValueError, match=r"p9 \(2,\) and 15 more;"):
        build(many)
