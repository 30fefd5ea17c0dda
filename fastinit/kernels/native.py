"""The compiled module `fastinit._C`, and whether it is in use."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import ModuleType

from fastinit.tensors import torch_private, walk
from fastinit.tensors.parts import parts
from fastinit.warning import FallbackWarning

CHOICES = ("auto", "native", "torch")

_C: ModuleType | None
why_missing: str
try:
    from fastinit import _C as _module
except ImportError as error:  # a platform that setup.py builds no kernels for
    _C, why_missing = None, f"the native kernels are not installed ({error})"
    _folder = Path(__file__).parents[2]
    if (_folder / "csrc").is_dir():
        why_missing = (
            f"the native kernels are not installed in {str(_folder)!r}: these are the sources, "
            "which stand before an installed package; start Python in another folder, or build "
            "them by python setup.py build_ext --inplace"
        )
else:
    _C, why_missing = _module, torch_private.why_not_native()
    _C.bind({**torch_private.for_recorder(), "parts": parts})
    walk.use(_C.walk)


def checked(name: str, source: str) -> str:
    """Return the name of a backend, which `source` gave.

    Raises:
        ValueError: it is no backend.
    """
    if name not in CHOICES:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, CHOICES))}, got {name!r}")
    return name


_selected = checked(os.environ.get("FASTINIT_BACKEND", "auto"), "FASTINIT_BACKEND")
_warned = False


def selected() -> str:
    """Return the chosen backend: auto, native or torch."""
    return _selected


def select(name: str) -> None:
    """Choose a backend for the process."""
    global _selected
    _selected = name
    if _C is not None:
        _C.enable(name != "torch" and not why_missing)


def is_native() -> bool:
    """Whether fills go to the native kernels. Warn once if they are wanted and missing."""
    global _warned
    if _selected == "torch":
        return False
    if why_missing and not _warned:
        _warned = True
        warnings.warn(
            f"fastinit runs on torch.nn.init: {why_missing}", FallbackWarning, stacklevel=3
        )
    return not why_missing


select(_selected)
