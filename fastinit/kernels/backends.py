"""Which engine fills: the native kernels, torch.nn.init, or whichever can serve."""

from __future__ import annotations

import os
import warnings
from types import ModuleType, TracebackType

import torch

try:
    from fastinit import _C as _module

    _C: ModuleType | None = _module
    _missing = ""
except ImportError as error:  # a platform that setup.py builds no kernels for
    _C = None
    _missing = str(error)

_NAMES = ("auto", "native", "torch")


def _checked(name: str, source: str) -> str:
    if name not in _NAMES:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, _NAMES))}, got {name!r}")
    return name


_selected = _checked(os.environ.get("FASTINIT_BACKEND", "auto"), "FASTINIT_BACKEND")
_warned = False


class backend:
    """Choose the backend for the whole process, or for a `with` block.

    Args:
        name: `"native"`, the fused kernels, tensors they cannot serve still going to
            `torch.nn.init`; `"torch"`, every rule eagerly through `torch.nn.init`, bit for bit what
            mmengine gives under the same `torch.manual_seed`; `"auto"`, the default, native where
            it was built and torch elsewhere. The environment variable `FASTINIT_BACKEND` sets the
            initial choice.

    Raises:
        ValueError: for any other name.
        RuntimeError: for `"native"` when the package was installed without its native part.

    Examples:
        >>> fastinit.backend("torch")          # from here on
        >>> with fastinit.backend("torch"):    # or for a block
        ...     model.init_weights()
    """

    def __init__(self, name: str) -> None:
        global _selected
        _checked(name, "backend")
        if name == "native" and _C is None:
            raise RuntimeError(f"the native kernels are not installed: {_missing}")
        self._name = name
        self._previous = _selected
        _selected = name

    def __enter__(self) -> backend:
        global _selected
        if _selected != self._name:  # entered later than made, or again
            self._previous = _selected
            _selected = self._name
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _selected
        _selected = self._previous

    def __repr__(self) -> str:
        return f"fastinit.backend({self._name!r})"


def is_native() -> bool:
    """Whether fills go to the native kernels; warns once where they are wanted and missing."""
    global _warned
    if _selected == "torch":
        return False
    if _C is None and not _warned:
        _warned = True
        warnings.warn(
            f"fastinit runs on torch.nn.init: its native kernels are not installed ({_missing})",
            RuntimeWarning,
            stacklevel=3,
        )
    return _C is not None


def config() -> dict[str, str]:
    """What `show_config` prints, as a dictionary."""
    from fastinit import __version__
    from fastinit.kernels import cuda

    entries = {"fastinit": __version__, "torch": torch.__version__, "backend": _selected}
    if _C is None:
        entries["native"] = f"not installed ({_missing}); torch.nn.init is used instead"
    else:
        entries["native"] = "installed"
        entries["ISA"] = f"{_C.default_isa()} (available: {', '.join(_C.isas())})"
        entries["CUDA"] = cuda.config()
    entries["threads"] = str(torch.get_num_threads())
    return entries


def show_config() -> None:
    """Print version, backend, instruction set and threads in use, and why a fallback happens."""
    for name, value in config().items():
        print(f"{name:>10}: {value}")
