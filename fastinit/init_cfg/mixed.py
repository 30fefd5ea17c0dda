"""Provenance where models of ours and of mmengine's are in each other.

mmengine's `update_init_info` inside an `init_weights` of ours, by code that imports it still, is
served from our provenance; what an `init_weights` of ours knows inside of mmengine's is handed over
to its.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from fastinit.capture.means import last_write
from fastinit.kernels.native import is_native
from fastinit.plan.current import current
from fastinit.plan.provenance import Initialization
from fastinit.tensors.storage import storage_key

INFO = "_params_init_info"  # mmengine's name for it, of each module while its init_weights runs


def hand_over(initialization: Initialization, module: nn.Module) -> bool:
    """Tell mmengine who wrote what, if its `init_weights` is what calls the module's.

    Returns:
        Whether that is so; the report is then mmengine's.
    """
    theirs = vars(module).get(INFO)
    if theirs is None:
        return False
    for parameter in module.parameters():
        mean = last_write(current(), parameter.data)
        if mean is None:
            mean = parameter.data.mean().cpu()
        entry = theirs[parameter]
        if initialization.knows(parameter) and entry.get("tmp_mean_value") != mean:
            entry.update(init_info=initialization.text_of(parameter), tmp_mean_value=mean)
    return True


def update_init_info(module: nn.Module, init_info: str) -> None:
    """mmengine's function, from our provenance where that is what the module has."""
    info = getattr(module, INFO, None)
    if isinstance(info, ParamsInitInfo):
        info.initialization.update(module, init_info)
    else:
        sys.modules["mmengine.model.weight_init"].update_init_info.__wrapped__(module, init_info)


class ParamsInitInfo:
    """What mmengine keeps as `_params_init_info` of a module: by parameter, who wrote it.

    It is a view of our own provenance, in which mmengine's function looks up and credits.

    Attributes:
        initialization: the provenance.
    """

    def __init__(self, initialization: Initialization) -> None:
        self.initialization = initialization

    def __contains__(self, parameter: object) -> bool:
        return self.initialization.knows(parameter)

    def __getitem__(self, parameter: nn.Parameter) -> _Entry:
        return _Entry(self.initialization, parameter)


class _Entry:
    """`init_info`, the text; and `tmp_mean_value`, which differs from the mean that mmengine
    computes (in a plan it gets the number of the last write) if the parameter was written since."""

    def __init__(self, initialization: Initialization, parameter: nn.Parameter) -> None:
        self._initialization = initialization
        self._parameter = parameter

    def __getitem__(self, key: str) -> Any:
        if key == "init_info":
            return self._initialization.text_of(self._parameter)
        if self._initialization.is_written(self._parameter):
            return torch.tensor(float("nan"))
        return self._mean()

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "init_info":
            self._initialization.credit(self._parameter, value)

    def _mean(self) -> Tensor:
        if not is_native():
            return self._parameter.data.mean().cpu()
        last = self._initialization.written_at(storage_key(self._parameter))
        return torch.tensor(float(last), dtype=torch.float64, device="cpu")
