"""Provenance where models of ours and of mmengine's are in each other.

mmengine's `update_init_info` inside an `init_weights` of ours, by code that imports it still, is
served from our provenance; what an `init_weights` of ours knows inside of mmengine's is handed over
to its.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
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
    theirs = _theirs(module)
    if theirs is None:
        return False
    for parameter in module.parameters():
        text = initialization.credited(parameter)
        if text is None:
            continue
        stamp = last_write(current(), parameter.data)
        mean = parameter.data.mean().cpu() if stamp is None else stamp
        entry = theirs.get(parameter)
        if entry is not None and entry["tmp_mean_value"] != mean:
            entry.update(init_info=text, tmp_mean_value=mean)
            if stamp is not None:
                entry[_STAMP] = stamp
    return True


def _theirs(module: nn.Module) -> dict[nn.Parameter, dict[str, Any]] | None:
    """Return what mmengine itself keeps; None outside of its `init_weights`."""
    info = vars(module).get(INFO)
    return None if isinstance(info, ParamsInitInfo) else info


_STAMP = "fastinit_stamp"  # of an entry: in place of a mean, the number of the last write


class Stamps:
    """What was handed over of a module in a plan, after which mmengine compares means again."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._theirs = _theirs(module) or {}
        self._is_same: dict[nn.Parameter, bool] = {}

    def look(self) -> None:
        """Call at the end of the plan, for what was written since."""
        for parameter in self._module.parameters() if self._theirs else ():
            stamp = self._theirs.get(parameter, {}).pop(_STAMP, None)
            if stamp is not None:
                self._is_same[parameter] = bool(stamp == last_write(current(), parameter.data))

    def settle(self) -> None:
        """Call after the plan."""
        for parameter, is_same in self._is_same.items():
            mean = parameter.data.mean().cpu() if is_same else torch.tensor(float("nan"))
            self._theirs[parameter]["tmp_mean_value"] = mean


def update_init_info(module: nn.Module, init_info: str) -> None:
    """mmengine's function, from our provenance where that is what the module has."""
    info = getattr(module, INFO, None)
    if isinstance(info, ParamsInitInfo):
        info.initialization.update(module, init_info)
    else:
        sys.modules["mmengine.model.weight_init"].update_init_info.__wrapped__(module, init_info)


class ParamsInitInfo(Mapping[nn.Parameter, "_Entry"]):
    """What mmengine keeps as `_params_init_info` of a module: by parameter, who wrote it.

    It is a view of our own provenance, in which mmengine's function looks up and credits.

    Attributes:
        initialization: the provenance.
        is_over: whether the `init_weights` that it is of has ended: copies of modules may keep it.
    """

    def __init__(self, initialization: Initialization) -> None:
        self.initialization = initialization
        self.is_over = False

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self.initialization.parameters)

    def __len__(self) -> int:
        return len(self.initialization.parameters)

    def __deepcopy__(self, memo: Any) -> ParamsInitInfo:
        return self  # of a module that is copied meanwhile

    def __reduce__(self) -> Any:
        return dict, ()

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
