"""What the doctor says of a backend that was chosen."""

from __future__ import annotations

import fastinit
from fastinit.commands.doctor import findings


def test_the_torch_backend_is_a_note() -> None:
    with fastinit.backend("torch"):
        (found,) = (each for each in findings() if each.what == "native kernels")
    assert found.mark == "note"
    assert "fastinit.backend" in found.fix
