"""What the doctor says of a backend that was chosen."""

from __future__ import annotations

import pytest

import fastinit
from fastinit.commands.doctor import findings
from fastinit.kernels import native


def test_missing_kernels_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_missing", "no extension")
    (found,) = (each for each in findings() if each.what == "native kernels")
    assert found.mark == "problem"
    assert "no extension; torch.nn.init is used" in found.told
    assert "C++17" in found.fix


def test_the_torch_backend_is_a_note() -> None:
    with fastinit.backend("torch"):
        (found,) = (each for each in findings() if each.what == "native kernels")
    assert found.mark == "note"
    assert "fastinit.backend" in found.fix
