"""The functions of `torch.nn.init`, carried out by the native kernels.

Names, arguments, warnings and errors are torch's. The random and constant initialisers are native
for strided CPU and CUDA tensors of float32, float64, float16 and bfloat16, of any memory format
(`kernels/supported.py`); other tensors and arguments out of range fall back to `torch.nn.init`, as
do `dirac_`, `eye_` and `sparse_`. DTensors are filled as parts of the whole, by all ranks of their
mesh together. A value depends on seed, stream, logical index,
distribution, arguments and dtype alone (stream v1), not on device, memory format or threads. The
seed is drawn from `generator`, or by default from torch's default CPU generator; inside a plan
(`init_weights`, `fused`, `build`), which records the call for later, the plan's is the default.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import Generator, Tensor

from fastinit.capture.eager import on_whole, wants_whole
from fastinit.capture.replacements import eager, replaces
from fastinit.kernels.distributions import CONSTANT, NORMAL, TRUNC_NORMAL, UNIFORM, warn_if_far
from fastinit.kernels.native import _C
from fastinit.plan.fan_rules import calculate_gain as calculate_gain
from fastinit.plan.fan_rules import kaiming_rule, xavier_rule
from fastinit.plan.orthogonal import make_orthogonal
from fastinit.plan.records import FanRule
from fastinit.plan.write import write
from fastinit.tensors.shards import require_own
from fastinit.tensors.torch_private import unwatched

_torch = eager

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def _torch_call(function: Callable[..., Any], *args: Any, generator: Generator | None) -> Tensor:
    """Call torch's initialiser, with `generator` only if it is given: some versions lack it."""
    _require_tensor(args[0], getattr(function, "__name__", "init"))
    named: dict[str, Any] = {} if generator is None else {"generator": generator}
    if wants_whole(args[0]):
        whole: Tensor = on_whole(function, *args, **named)
        return whole
    result: Tensor = function(*args, **named)
    return result


def _require_tensor(tensor: Any, name: str) -> None:
    if isinstance(tensor, Tensor):
        return
    hint = (
        " (a layer without a bias has none)"
        if tensor is None
        else "; did you mean its .weight?"
        if isinstance(tensor, torch.nn.Module)
        else ""
    )
    what = "None" if tensor is None else f"a {type(tensor).__name__}"
    # as torch raises: code that catches its error catches ours
    raise AttributeError(f"{name}: tensor must be a torch.Tensor, got {what}{hint}")


def __getattr__(name: str) -> Any:
    """Return other attributes of `torch.nn.init`: private helpers, which copied code may call."""
    if hasattr(torch.nn.init, name) or name.startswith("__"):
        return getattr(torch.nn.init, name)
    close = get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"fastinit.init has no {name!r}{hint}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    _require_tensor(tensor, "init")
    if torch.nn.parameter.is_lazy(tensor):
        raise ValueError(
            "Attempted to use an uninitialized parameter: a lazy module has no shapes before its "
            "first forward pass; run one on a dummy batch, then initialise"
        )
    known = None if _C is None else _C.shape_of(tensor)
    if known is not None:
        return tuple(known)
    with unwatched():
        shape: tuple[int, ...] = tensor.shape
        return shape


def _by_fans(tensor: Tensor, kind: int, fan_rule: FanRule, generator: Any) -> bool:
    return write(tensor, kind, fan_rule(_shape(tensor)), generator, fan_rule)


def _is_empty(tensor: Tensor) -> bool:
    empty = 0 in _shape(tensor)
    if empty:
        require_own(tensor)
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    return empty


@replaces(_torch.uniform_)
def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Fill with draws from U[a, b), the bounds rounded to the tensor's dtype.

    Args:
        tensor: any shape.
        a: lower bound, included.
        b: upper bound, excluded, also after values are rounded to the dtype.
        generator: gives the seed; by default the open plan does, or torch's default CPU generator.

    Raises:
        RuntimeError: a > b, or bounds that the dtype cannot hold.
    """
    if write(tensor, UNIFORM, (a, b), generator):
        return tensor
    return _torch_call(_torch.uniform_, tensor, a, b, generator=generator)


@replaces(_torch.normal_)
def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Fill with draws from N(mean, std^2) (Box and Muller, 1958).

    Values reach up to 6.7 standard deviations from the mean (float64: 8.6).

    Args:
        tensor: any shape.
        mean: mean of the distribution.
        std: standard deviation, not negative.
        generator: gives the seed; by default the open plan does, or torch's default CPU generator.

    Raises:
        RuntimeError: std < 0.
    """
    if write(tensor, NORMAL, (mean, std), generator):
        return tensor
    return _torch_call(_torch.normal_, tensor, mean, std, generator=generator)


@replaces(_torch.trunc_normal_)
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Fill with draws from N(mean, std^2) conditioned on [a, b].

    One word per element goes through the inverse CDF of the window, which is exact in both tails:
    nothing is rejected. A window that begins more than 10.5 (float64: 36) standard deviations from
    the mean falls back to `torch.nn.init`.

    Args:
        tensor: any shape.
        mean: mean of the normal distribution, before truncation.
        std: its standard deviation, positive.
        a: lower bound, in the units of the values, not of std; may be -inf.
        b: upper bound, likewise; may be inf.
        generator: gives the seed; by default the open plan does, or torch's default CPU generator.

    Raises:
        ZeroDivisionError: std == 0.
        RuntimeError: a > b.
    """
    # Torch would name other numbers.
    if isinstance(a, (int, float)) and isinstance(b, (int, float)) and a > b:
        raise RuntimeError(f"trunc_normal_: a must not exceed b, got a={a} and b={b}")
    if isinstance(std, (int, float)) and std == 0:
        raise ZeroDivisionError("trunc_normal_: std must be positive, got 0")
    if write(tensor, TRUNC_NORMAL, (mean, std, a, b), generator):
        warn_if_far(mean, std, a, b)
        return tensor
    return _torch_call(_torch.trunc_normal_, tensor, mean, std, a, b, generator=generator)


@replaces(_torch.constant_)
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with `val`, rounded to the dtype.

    Raises:
        RuntimeError: the dtype cannot hold `val`.
    """
    if write(tensor, CONSTANT, (val,)):
        return tensor
    _require_tensor(tensor, "constant_")
    result: Tensor = _torch.constant_(tensor, val)
    return result


@replaces(_torch.ones_)
def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    if write(tensor, CONSTANT, (1.0,)):
        return tensor
    _require_tensor(tensor, "ones_")
    result: Tensor = _torch.ones_(tensor)
    return result


@replaces(_torch.zeros_)
def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    if write(tensor, CONSTANT, (0.0,)):
        return tensor
    _require_tensor(tensor, "zeros_")
    result: Tensor = _torch.zeros_(tensor)
    return result


@replaces(_torch.xavier_uniform_, by_fans=True)
def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Fill with draws from U[-bound, bound), bound = gain sqrt(6 / (fan_in + fan_out)).

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010.

    Args:
        tensor: a weight of shape (out, in, *kernel).
        gain: factor of the standard deviation, see `calculate_gain`.
        generator: gives the seed; by default the open plan does, or torch's default CPU generator.

    Raises:
        ValueError: fewer than two dimensions.
        ZeroDivisionError: fan_in + fan_out = 0.
    """
    if _by_fans(tensor, UNIFORM, xavier_rule(UNIFORM, gain), generator):
        return tensor
    return _torch_call(_torch.xavier_uniform_, tensor, gain, generator=generator)


@replaces(_torch.xavier_normal_, by_fans=True)
def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with draws from N(0, std^2), std = gain sqrt(2 / (fan_in + fan_out)).

    Glorot and Bengio, AISTATS 2010; arguments and errors as for `xavier_uniform_`.
    """
    if _by_fans(tensor, NORMAL, xavier_rule(NORMAL, gain), generator):
        return tensor
    return _torch_call(_torch.xavier_normal_, tensor, gain, generator=generator)


@replaces(_torch.kaiming_uniform_, by_fans=True)
def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill with draws from U[-bound, bound), bound = gain sqrt(3 / fan).

    He, Zhang, Ren and Sun, "Delving deep into rectifiers", ICCV 2015.

    Args:
        tensor: a weight of shape (out, in, *kernel); an empty one is left alone, with a warning.
        a: negative slope of the rectifier that follows; used by `"leaky_relu"` only.
        mode: `"fan_in"` keeps the variance in the forward pass, `"fan_out"` in the backward pass.
        nonlinearity: gives the gain, see `calculate_gain`.
        generator: gives the seed; by default the open plan does, or torch's default CPU generator.

    Raises:
        ValueError: fewer than two dimensions, or an unknown mode or nonlinearity.
    """
    if _is_empty(tensor):
        return tensor
    if _by_fans(tensor, UNIFORM, kaiming_rule(UNIFORM, a, mode, nonlinearity), generator):
        return tensor
    args = (tensor, a, mode, nonlinearity)
    return _torch_call(_torch.kaiming_uniform_, *args, generator=generator)


@replaces(_torch.kaiming_normal_, by_fans=True)
def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill with draws from N(0, std^2), std = gain / sqrt(fan).

    He, Zhang, Ren and Sun, ICCV 2015; arguments and errors as for `kaiming_uniform_`.
    """
    if _is_empty(tensor):
        return tensor
    if _by_fans(tensor, NORMAL, kaiming_rule(NORMAL, a, mode, nonlinearity), generator):
        return tensor
    args = (tensor, a, mode, nonlinearity)
    return _torch_call(_torch.kaiming_normal_, *args, generator=generator)


def of_kind(kind: int) -> Callable[..., Tensor]:
    """Return the function that fills from a distribution."""
    functions: dict[int, Callable[..., Tensor]] = {
        UNIFORM: uniform_,
        NORMAL: normal_,
        TRUNC_NORMAL: trunc_normal_,
    }
    return functions[kind]


def by_fans_(tensor: Tensor, kind: int, fan_rule: FanRule) -> Tensor:
    """Fill from a distribution whose parameters are a function of the tensor's shape."""
    if _is_empty(tensor) or _by_fans(tensor, kind, fan_rule, None):
        return tensor
    return of_kind(kind)(tensor, *fan_rule(_shape(tensor)))


@replaces(_torch.orthogonal_)
def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """Fill with a (semi-)orthogonal matrix times `gain`.

    Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks", ICLR 2014. The matrix is computed by torch's QR decomposition, which
    may depend on the number of threads; in float16 and bfloat16 in float32, then rounded. Fan
    groups make each of their matrices orthogonal by itself.

    Args:
        tensor: a weight of shape (out, in, *kernel), which is taken as out rows.
        gain: factor of the matrix.
        generator: gives the seed; by default the open plan does, or torch's default CPU generator.

    Raises:
        ValueError: fewer than two dimensions.
    """
    return orthogonal_parts_(tensor, gain, 1, generator)


def orthogonal_parts_(
    tensor: Tensor, gain: float, parts: int, generator: Generator | None = None
) -> Tensor:
    """Fill each of some equal parts of dimension 0 as `orthogonal_` fills a tensor."""
    if wants_whole(tensor):
        whole: Tensor = on_whole(
            orthogonal_parts_,
            tensor,
            gain,
            parts,
            generator=generator,
            recorded=lambda whole: make_orthogonal(whole, gain, generator, parts),
        )
        return whole
    if not make_orthogonal(tensor, gain, generator, parts):
        for part in tensor.detach().chunk(parts) if parts > 1 else (tensor,):
            _torch_call(_torch.orthogonal_, part, gain, generator=generator)
    return tensor


def sparse_(
    tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None
) -> Tensor:
    """Fill a matrix with draws from N(0, std^2), by `torch.nn.init.sparse_`; a fraction `sparsity`
    of each column is 0. Raises ValueError for other than two dimensions.

    Martens, "Deep learning via Hessian-free optimization", ICML 2010.
    """
    return _torch_call(_torch.sparse_, tensor, sparsity, std, generator=generator)


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity, by `torch.nn.init.eye_`. ValueError if it is no matrix."""
    result: Tensor = _torch.eye_(tensor)
    return result


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight with the identity on its channels, by `torch.nn.init.dirac_`.

    Raises ValueError for other than three to five dimensions, or if `groups` does not divide the
    first of them.
    """
    result: Tensor = _torch.dirac_(tensor, groups)
    return result


def _deprecated(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `function` under its name without the underscore, which warns as torch's does."""
    new = function.__name__
    old = new[:-1]

    def renamed(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(
            f"`nn.init.{old}` is now deprecated in favor of `nn.init.{new}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    renamed.__name__ = old
    renamed.__doc__ = f"Deprecated name of `{new}`."
    return renamed


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)
