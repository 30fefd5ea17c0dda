"""The tensors that a command line names: a checkpoint, or a model of a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fastinit.checkpoint.keys import entries_in
from fastinit.checkpoint.read import read
from fastinit.checkpoint.sources import located


def is_factory(text: str) -> bool:
    """Whether a text names a function (`package.module:function`), and no checkpoint."""
    return "://" not in text and ":" in text and not Path(text).exists()


def tensors_of(source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by their names; sources as `Pretrained` takes them."""
    entries: dict[str, Any] = dict(entries_in(read(located(source)).tree, source))
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)}
