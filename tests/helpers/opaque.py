"""A subclass of Tensor that does not say what it is made of."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Opaque(Tensor):
    """A tensor that reads and writes another one."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Opaque:
        made: Opaque = Tensor._make_wrapper_subclass(cls, inner.shape)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    def __init__(self, inner: Tensor) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*(arg.inner if isinstance(arg, Opaque) else arg for arg in args))
