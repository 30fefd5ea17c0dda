"""Initializers by the papers that define them, for an init_cfg; mmengine has none of these.

Each fills weights around zero with a standard deviation of its own; biases are as `BaseInit` says.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from fastinit import init
from fastinit.init_cfg.base import BaseInit, FanInit, Law
from fastinit.init_cfg.initializers import ConstantInit, NormalInit
from fastinit.init_cfg.registry import WEIGHT_INITIALIZERS
from fastinit.init_cfg.writes import Write, by_rule
from fastinit.kernels.distributions import NORMAL, TRUNC_NORMAL, UNIFORM
from fastinit.plan.fan_rules import scaled_rule

_KINDS = {"truncated_normal": TRUNC_NORMAL, "untruncated_normal": NORMAL, "uniform": UNIFORM}
_MODES = ("fan_in", "fan_out", "fan_avg")


class ScaledInit(FanInit):
    """An initializer of which a subclass gives the standard deviation, by the fans of a weight."""

    _kind = NORMAL

    def _std(self, fan_in: int, fan_out: int) -> float:
        raise NotImplementedError

    def _write(self) -> Write:
        return by_rule(self._kind, scaled_rule(self._kind, self._std))

    def _law(self) -> Law | None:
        return self._kind, (), scaled_rule(self._kind, self._std)

    def _told(self) -> str:
        """Return the arguments in words."""
        return ""

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: {self._told()}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="VarianceScaling")
class VarianceScalingInit(ScaledInit):
    """An initializer that fills weights with variance scale / fan, as Keras and Flax do.

    Truncated normals are those within two standard deviations, widened so that their variance is
    what is asked for. `"fan_avg"` is the mean of the two fans. `scale=1` and `"fan_avg"` is Glorot
    and Bengio's law (AISTATS 2010), `scale=2` and `"fan_in"` that of He et al. (ICCV 2015).

    Args:
        scale: the factor of the variance, positive.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.
        distribution: `"truncated_normal"`, `"untruncated_normal"` or `"uniform"`. `"normal"` is
            refused: Keras means a truncated one by it, and Flax one that is not.
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.

    Raises:
        ValueError: another mode or distribution, or a scale that is not positive.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
        if distribution not in _KINDS:
            names = ", ".join(map(repr, _KINDS))
            raise ValueError(f"distribution must be one of {names}, got {distribution!r}")
        self.scale = _positive("scale", scale)
        self.mode = mode
        self.distribution = distribution
        self._kind = _KINDS[distribution]

    def _std(self, fan_in: int, fan_out: int) -> float:
        fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
        return math.sqrt(self.scale / max(fans[self.mode], 1))

    def _told(self) -> str:
        return f"scale={self.scale}, mode={self.mode}, distribution={self.distribution}"


@WEIGHT_INITIALIZERS.register_module(name="LecunNormal")
class LecunNormalInit(VarianceScalingInit):
    """An initializer that fills weights with truncated normals of variance 1 / fan_in (LeCun,
    Bottou, Orr and Müller, "Efficient backprop", 1998), as self-normalising networks want them
    (Klambauer et al., NeurIPS 2017).

    Args:
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(1.0, "fan_in", "truncated_normal", **kwargs)


@WEIGHT_INITIALIZERS.register_module(name="LecunUniform")
class LecunUniformInit(VarianceScalingInit):
    """An initializer that fills weights from a uniform distribution of variance 1 / fan_in (LeCun
    et al., 1998).

    Args:
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(1.0, "fan_in", "uniform", **kwargs)


@WEIGHT_INITIALIZERS.register_module(name="SmallInit")
class SmallInit(NormalInit):
    """An initializer that fills weights from N(0, 2 / (5 dim)) (Nguyen and Salazar, "Transformers
    without tears", IWSLT 2019), as GPT-NeoX does.

    Args:
        dim: the width of the model.
        **kwargs: see `BaseInit`.
    """

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(0.0, math.sqrt(2 / (5 * _positive("dim", dim))), **kwargs)


@WEIGHT_INITIALIZERS.register_module(name="Wang")
class WangInit(NormalInit):
    """An initializer that fills weights from N(0, std^2), std = 2 / (layers sqrt(dim)): the output
    projections of GPT-J and GPT-NeoX (Black et al., 2022, after Wang's mesh-transformer-jax).

    Args:
        layers: the number of transformer layers.
        dim: the width of the model.
        **kwargs: see `BaseInit`.
    """

    def __init__(self, layers: int, dim: int, **kwargs: Any) -> None:
        std = 2 / (_positive("layers", layers) * math.sqrt(_positive("dim", dim)))
        super().__init__(0.0, std, **kwargs)


@WEIGHT_INITIALIZERS.register_module(name=["DepthScaled", "GPT2"])
class DepthScaledInit(NormalInit):
    """An initializer that fills weights from N(0, std^2 / (2 layers)): those of projections that
    end in a residual stream, two a layer (Radford et al., "Language models are unsupervised
    multitask learners", 2019; Shoeybi et al., "Megatron-LM", 2019).

    Args:
        layers: the number of transformer layers.
        std: that of the other weights.
        **kwargs: see `BaseInit`; usually `params=["*.c_proj.weight"]` or the like.
    """

    def __init__(self, layers: int, std: float = 0.02, **kwargs: Any) -> None:
        super().__init__(0.0, std / math.sqrt(2 * _positive("layers", layers)), **kwargs)


@WEIGHT_INITIALIZERS.register_module(name="DeepNorm")
class DeepNormInit(ScaledInit):
    """An initializer that fills weights from Xavier's normal distribution times the gain of DeepNet
    (Wang et al., "DeepNet: scaling transformers to 1,000 layers", 2022, table of figure 2).

    It is for the feed-forward layers and the value and output projections; queries and keys keep
    the gain 1 (`type="Xavier"`). The model scales its residual branches by the paper's alpha.

    Args:
        encoder: the number of encoder layers.
        decoder: the number of decoder layers.
        part: `"encoder"` or `"decoder"`, whose layers these are, if the model has both.
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.

    Raises:
        ValueError: no layers, or a model with both and no `part`.
    """

    def __init__(
        self, encoder: int = 0, decoder: int = 0, part: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if encoder + decoder <= 0 or min(encoder, decoder) < 0:
            raise ValueError(f"give encoder= or decoder= layers, got {encoder} and {decoder}")
        if encoder and decoder:
            if part not in ("encoder", "decoder"):
                raise ValueError(f"part must be 'encoder' or 'decoder', got {part!r}")
            is_encoder = part == "encoder"
            self.gain: float = (
                0.87 * (encoder**4 * decoder) ** (-1 / 16)
                if is_encoder
                else (12 * decoder) ** (-1 / 4)
            )
        else:
            self.gain = (8 * (encoder or decoder)) ** (-1 / 4)

    def _std(self, fan_in: int, fan_out: int) -> float:
        return self.gain * math.sqrt(2 / (fan_in + fan_out))

    def _told(self) -> str:
        return f"gain={self.gain}"


@WEIGHT_INITIALIZERS.register_module(name="Fixup")
class FixupInit(ScaledInit):
    """An initializer that fills weights from He's normal distribution by fan_out, times
    blocks^(-1 / (2 layers - 2)) (Zhang, Dauphin and Ma, "Fixup initialization", ICLR 2019).

    It is for the layers of residual branches but the last, which becomes 0, as the classifier does
    (`type="Constant", val=0`).

    Args:
        blocks: the number of residual branches in the model.
        layers: the number of layers in a branch, two or more.
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.

    Raises:
        ValueError: no blocks, or fewer than two layers.
    """

    def __init__(self, blocks: int, layers: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if layers < 2:
            raise ValueError(f"layers must be at least 2, those of a branch, got {layers}")
        self.factor: float = _positive("blocks", blocks) ** (-1 / (2 * layers - 2))

    def _std(self, fan_in: int, fan_out: int) -> float:
        return self.factor * math.sqrt(2 / fan_out)

    def _told(self) -> str:
        return f"factor={self.factor}"


@WEIGHT_INITIALIZERS.register_module(name="T5")
class T5Init(ScaledInit):
    """An initializer that fills weights from N(0, factor^2 / fan_in), those of queries from
    N(0, factor^2 / (fan_in d_kv)), which stands for the scale that T5's attention leaves out
    (Raffel et al., "Exploring the limits of transfer learning", JMLR 2020, and its code).

    Args:
        factor: the factor of the standard deviation.
        d_kv: the size of a head, for queries; None for other weights.
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.
    """

    def __init__(self, factor: float = 1.0, d_kv: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor: float = _positive("factor", factor)
        self.d_kv = d_kv if d_kv is None else _positive("d_kv", d_kv)

    def _std(self, fan_in: int, fan_out: int) -> float:
        return self.factor / math.sqrt(fan_in * (self.d_kv or 1))

    def _told(self) -> str:
        return f"factor={self.factor}, d_kv={self.d_kv}"


@WEIGHT_INITIALIZERS.register_module(name="MuP")
class MuPInit(ScaledInit):
    """An initializer whose standard deviation goes with the width as the maximal update
    parametrisation wants it (Yang et al., "Tensor programs V", 2022, table 3).

    What is tuned at a base width then holds at others, if the learning rates follow the same table.
    At the base width all three roles have the standard deviation `std`.

    Args:
        std: the standard deviation at the base width.
        base_fan_in: fan_in of this weight in the model of the base width.
        role: `"hidden"`, of which both sides grow with the width: std sqrt(base / fan_in);
            `"output"`, which ends in something of a fixed size: std base / fan_in; `"input"`, which
            begins there: std.
        **kwargs: `fan_mode`, see `FanInit`; others see `BaseInit`.

    Raises:
        ValueError: another role, or a number that is not positive.
    """

    _POWERS = {"input": 0.0, "hidden": 0.5, "output": 1.0}  # noqa: RUF012

    def __init__(self, std: float, base_fan_in: int, role: str = "hidden", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if role not in self._POWERS:
            names = ", ".join(map(repr, self._POWERS))
            raise ValueError(f"role must be one of {names}, got {role!r}")
        self.std = _positive("std", std)
        self.base_fan_in = _positive("base_fan_in", base_fan_in)
        self.role = role

    def _std(self, fan_in: int, fan_out: int) -> float:
        return float(self.std * (self.base_fan_in / fan_in) ** self._POWERS[self.role])

    def _told(self) -> str:
        return f"std={self.std}, base_fan_in={self.base_fan_in}, role={self.role}"


@WEIGHT_INITIALIZERS.register_module(name="LayerScale")
class LayerScaleInit(ConstantInit):
    """An initializer that fills the factors of residual branches with a small constant: 0.1 to 18
    layers, 1e-5 to 24, 1e-6 beyond (Touvron et al., "Going deeper with image transformers", ICCV
    2021).

    Args:
        depth: the number of layers, which gives the constant.
        val: the constant, in place of `depth`.
        **kwargs: see `BaseInit`; usually `params=["*.gamma_*"]` or the like.

    Raises:
        ValueError: neither or both of them.
    """

    def __init__(self, depth: int | None = None, val: float | None = None, **kwargs: Any) -> None:
        if (depth is None) == (val is None):
            raise ValueError(f"give depth= or val=, one of them, got {depth!r} and {val!r}")
        if val is None:
            layers = _positive("depth", depth or 0)
            val = 0.1 if layers <= 18 else 1e-5 if layers <= 24 else 1e-6
        super().__init__(val, **kwargs)


@WEIGHT_INITIALIZERS.register_module(name="PyTorchDefault")
class PyTorchDefaultInit(BaseInit):
    """An initializer that calls the layers' own `reset_parameters`, by which torch's constructors
    initialise them.

    Args:
        layer: see `BaseInit`.
    """

    def __init__(self, *, layer: str | list[str] | None = None) -> None:
        super().__init__(layer=layer)

    def init_layer(self, module: nn.Module) -> None:
        reset: Any = getattr(module, "reset_parameters", None)
        if not callable(reset):
            raise ValueError(f"{type(module).__name__} has no reset_parameters")
        reset()

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: reset_parameters"


@WEIGHT_INITIALIZERS.register_module(name="Identity")
class IdentityInit(BaseInit):
    """An initializer that makes matrices the identity, see `fastinit.init.eye_` (Le, Jaitly and
    Hinton, "A simple way to initialize recurrent networks of rectified linear units", 2015).

    Args:
        gain: the factor of the identity.
        **kwargs: see `BaseInit`.
    """

    def __init__(self, gain: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = gain

    def _write(self) -> Write:
        return Write(lambda tensor: init.eye_(tensor).detach().mul_(self.gain))

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: gain={self.gain}, bias={self.bias}"


@WEIGHT_INITIALIZERS.register_module(name="Dirac")
class DiracInit(BaseInit):
    """An initializer that lets convolutions pass their input on, see `fastinit.init.dirac_`
    (Zagoruyko and Komodakis, "DiracNets", 2017).

    Args:
        groups: of the convolution: each passes its own channels on.
        **kwargs: see `BaseInit`.
    """

    def __init__(self, groups: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = groups

    def _write(self) -> Write:
        return Write(lambda tensor: init.dirac_(tensor, self.groups))

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: groups={self.groups}, bias={self.bias}"


def _positive(name: str, value: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return value
