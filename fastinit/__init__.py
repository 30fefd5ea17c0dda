"""Weight initialisation: init_cfg semantics, one fused and counter-based fill of all parameters."""

__version__ = "0.1.0"

from fastinit import init
from fastinit.capture import mode as _capture  # noqa: F401 - lets torch.nn.init.trunc_normal_ be recorded
from fastinit.init_cfg.functions import (
    bias_init_with_prob,
    caffe2_xavier_init,
    constant_init,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)
from fastinit.init_cfg.initializers import (
    BaseInit,
    Caffe2XavierInit,
    ConstantInit,
    KaimingInit,
    NormalInit,
    PretrainedInit,
    TruncNormalInit,
    UniformInit,
    XavierInit,
    initialize,
    update_init_info,
)
from fastinit.init_cfg.module import BaseModule, ModuleDict, ModuleList, Sequential
from fastinit.init_cfg.registry import WEIGHT_INITIALIZERS
from fastinit.kernels.backends import backend, show_config
from fastinit.manifest.regenerate import regenerate, verify
from fastinit.models.build import build
from fastinit.models.materialize import materialize
from fastinit.plan.fan_groups import fan_groups
from fastinit.plan.fusion import fused

__all__ = [
    "WEIGHT_INITIALIZERS",
    "BaseInit",
    "BaseModule",
    "Caffe2XavierInit",
    "ConstantInit",
    "KaimingInit",
    "ModuleDict",
    "ModuleList",
    "NormalInit",
    "PretrainedInit",
    "Sequential",
    "TruncNormalInit",
    "UniformInit",
    "XavierInit",
    "backend",
    "bias_init_with_prob",
    "build",
    "caffe2_xavier_init",
    "constant_init",
    "fan_groups",
    "fused",
    "init",
    "initialize",
    "kaiming_init",
    "materialize",
    "normal_init",
    "regenerate",
    "show_config",
    "trunc_normal_init",
    "uniform_init",
    "update_init_info",
    "verify",
    "xavier_init",
]
