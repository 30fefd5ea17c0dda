"""The choice of a backend, and `show_config`."""

from __future__ import annotations

from types import TracebackType
from typing import Literal

import torch

from fastinit.kernels import cuda, native
from fastinit.tensors import torch_private

__version__ = "0.1.0"


class backend:
    """The choice of a backend, from the call on or for a `with` block, in all threads.

    Args:
        name: `"native"`, the fused kernels; tensors that they do not support fall back to
            `torch.nn.init`. `"torch"`, every fill at once by `torch.nn.init`, bit for bit as
            mmengine does under the same `torch.manual_seed` (but for truncated normals, which are
            PyTorch's). `"auto"`, native if the kernels can be used, else torch with one warning.
            `FASTINIT_BACKEND` in the environment sets the initial choice, by default `"auto"`.

    Raises:
        ValueError: any other name.
        RuntimeError: `"native"` where the native kernels cannot be used: the package was installed
            without them, or this torch lacks what they need.

    Examples:
        >>> fastinit.backend("torch")          # from here on
        >>> with fastinit.backend("torch"):    # or for a block
        ...     model.init_weights()
    """

    def __init__(self, name: Literal["auto", "native", "torch"]) -> None:
        native.checked(name, "backend")
        if name == "native" and native.why_missing:
            raise RuntimeError(f'backend("native") is not possible: {native.why_missing}')
        self._name = name
        self._previous = native.selected()
        native.select(name)

    def __enter__(self) -> backend:
        if native.selected() != self._name:  # entered again, or after another choice
            self._previous = native.selected()
            native.select(self._name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        native.select(self._previous)

    def __repr__(self) -> str:
        return f"fastinit.backend({self._name!r})"


def config() -> dict[str, str]:
    """Return the entries that `show_config` prints."""
    entries = {
        "fastinit": __version__,
        "torch": torch.__version__,
        "backend": native.selected(),
    }
    if native.why_missing:
        entries["native"] = f"not in use: {native.why_missing}; torch.nn.init is used instead"
    else:
        entries["native"] = "installed"
    if native._C is not None:
        entries["ISA"] = f"{native._C.default_isa()} (available: {', '.join(native._C.isas())})"
        entries["CUDA"] = cuda.config()
    entries["threads"] = str(torch.get_num_threads())
    if lost := torch_private.missing():
        names = "; ".join(f"{name.path.replace(':', '.')}: {name.without}" for name in lost)
        entries["missing"] = f"private names that this torch lacks: {names}"
    return entries


def show_config() -> None:
    """Print versions, backend, instruction set, CUDA, threads, and the reason for a fallback."""
    for name, value in config().items():
        print(f"{name:>10}: {value}")
