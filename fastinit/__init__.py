"""Weight initialisation for PyTorch: OpenMMLab's `init_cfg`, one counter-based fill of a model."""

from fastinit import init
from fastinit.capture import patches as _patches
from fastinit.capture.fused import fused
from fastinit.config import __version__ as __version__
from fastinit.config import backend, show_config
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
    OrthogonalInit,
    PretrainedInit,
    TruncNormalInit,
    UniformInit,
    XavierInit,
    update_init_info,
)
from fastinit.init_cfg.module import (
    BaseModule,
    ModuleDict,
    ModuleList,
    Sequential,
    reinitialize,
)
from fastinit.init_cfg.recipes import (
    DeepNormInit,
    DepthScaledInit,
    DiracInit,
    FixupInit,
    IdentityInit,
    LayerScaleInit,
    LecunNormalInit,
    LecunUniformInit,
    MuPInit,
    PyTorchDefaultInit,
    SmallInit,
    T5Init,
    VarianceScalingInit,
    WangInit,
)
from fastinit.init_cfg.registry import WEIGHT_INITIALIZERS
from fastinit.init_cfg.rules import initialize
from fastinit.manifest.manifest import Manifest
from fastinit.manifest.regenerate import regenerate
from fastinit.manifest.verify import verify
from fastinit.models.build import build
from fastinit.models.materialize import materialize
from fastinit.plan.fan_groups import fan_groups
from fastinit.plan.plan import Plan
from fastinit.reports.compare import Comparison, compare
from fastinit.reports.report import Report, report
from fastinit.reports.widths import Coordinates, coordinate_check
from fastinit.warning import (
    FallbackWarning,
    InitWarning,
    NotInitializedWarning,
    OverwrittenWarning,
    ReproducibilityWarning,
    SameValuesWarning,
    UnusedRuleWarning,
)

_patches.install()

__all__ = [
    "WEIGHT_INITIALIZERS",
    "BaseInit",
    "BaseModule",
    "Caffe2XavierInit",
    "Comparison",
    "ConstantInit",
    "Coordinates",
    "DeepNormInit",
    "DepthScaledInit",
    "DiracInit",
    "FallbackWarning",
    "FixupInit",
    "IdentityInit",
    "InitWarning",
    "KaimingInit",
    "LayerScaleInit",
    "LecunNormalInit",
    "LecunUniformInit",
    "Manifest",
    "ModuleDict",
    "ModuleList",
    "MuPInit",
    "NormalInit",
    "NotInitializedWarning",
    "OrthogonalInit",
    "OverwrittenWarning",
    "Plan",
    "PretrainedInit",
    "PyTorchDefaultInit",
    "Report",
    "ReproducibilityWarning",
    "SameValuesWarning",
    "Sequential",
    "SmallInit",
    "T5Init",
    "TruncNormalInit",
    "UniformInit",
    "UnusedRuleWarning",
    "VarianceScalingInit",
    "WangInit",
    "XavierInit",
    "backend",
    "bias_init_with_prob",
    "build",
    "caffe2_xavier_init",
    "compare",
    "constant_init",
    "coordinate_check",
    "fan_groups",
    "fused",
    "init",
    "initialize",
    "kaiming_init",
    "materialize",
    "normal_init",
    "regenerate",
    "reinitialize",
    "report",
    "show_config",
    "trunc_normal_init",
    "uniform_init",
    "update_init_info",
    "verify",
    "xavier_init",
]

# Tracebacks and reprs show the names that users import.
for _name in __all__:
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__
del _name
