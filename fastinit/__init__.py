"""Weight initialisation: init_cfg semantics, one fused and counter-based fill of all parameters."""

__version__ = "0.1.0"

from fastinit import capture as _capture  # noqa: F401 - lets torch.nn.init.trunc_normal_ be recorded
from fastinit import init
from fastinit.backends import backend, show_config
from fastinit.fans import fan_groups
from fastinit.functional import (
    bias_init_with_prob,
    caffe2_xavier_init,
    constant_init,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)
from fastinit.fusion import fused
from fastinit.initializers import (
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
from fastinit.materialize import materialize
from fastinit.models import build
from fastinit.module import BaseModule, ModuleDict, ModuleList, Sequential
from fastinit.regenerate import regenerate, verify
from fastinit.registry import WEIGHT_INITIALIZERS

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
