"""Weight initialisation: init_cfg semantics, one fused and counter-based fill of all parameters."""

__version__ = "0.1.0"

from fastinit import capture as _capture  # noqa: F401 - lets torch.nn.init.trunc_normal_ be recorded
from fastinit import init
from fastinit.backends import backend, show_config

__all__ = ["backend", "init", "show_config"]
