"""Pretrained weights: a local file is read, then copied into a module where it fits."""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import nn

from fastinit.log import is_main_process, logger
from fastinit.plan.current import deferred_copies
from fastinit.tensors.walk import WRAPPERS

Path = str | os.PathLike[str]
StateDict = dict[str, Any]


class IncompatibleKeys(NamedTuple):
    """The keys that a post-hook of `load_state_dict` may look at and change."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load_pretrained(
    module: nn.Module, checkpoint: Path, prefix: str | None = None, map_location: Any = "cpu"
) -> None:
    """Load a checkpoint into a module. Entries that do not fit are skipped and logged as a warning.

    The whole file is read before the first parameter is written.

    Args:
        module: receives parameters and buffers, in its own dtypes and on its own devices.
        checkpoint: path of a file by `torch.save`, or by safetensors if it ends in .safetensors; a
            leading `~` is expanded. The file holds a state dict, or a dict that has one under
            `"state_dict"`.
        prefix: load only the entries below this name, given with or without a trailing dot. Without
            a prefix, a leading `module.` is removed from names.
        map_location: where to read to, as for `torch.load`; for safetensors a device or None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a URL.
        TypeError: a `map_location` that safetensors does not take.
        AssertionError: no name in the file has that prefix, or a post-hook returns something.
        pickle.UnpicklingError: the file holds objects other than tensors and plain containers.
        RuntimeError: the file is damaged, or holds no state dict.
    """
    what = "model" if prefix is None else f"{prefix} in model"
    logger.info("load %s from: %s", what, checkpoint)
    entries = _state_dict_in(_read(checkpoint, map_location), checkpoint)
    if prefix is None:
        state_dict: StateDict = OrderedDict(
            (key.removeprefix("module."), value) for key, value in entries.items()
        )
        # Versions of the saved modules: some can upgrade old entries.
        metadata = getattr(entries, "_metadata", {})
    else:
        state_dict = _below(prefix, entries, checkpoint)
        metadata = {}
    with deferred_copies():
        problems = _copy_into(module, state_dict, metadata)
    if problems and is_main_process():
        lines = "\n".join(problems)
        logger.warning("%s does not fit %s exactly:\n%s", checkpoint, type(module).__name__, lines)


def _read(checkpoint: Path, map_location: Any) -> Any:
    path = os.path.expanduser(os.fspath(checkpoint))
    if "://" in path:
        raise ValueError(
            f"only local files are read, not {path!r}; download it first, for example with "
            "torch.hub.download_url_to_file, and give the path of the copy"
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no checkpoint {path!r}; looked in {os.getcwd()!r}")
    read: Callable[[str], Any]
    if path.endswith(".safetensors"):
        read = partial(safetensors.torch.load_file, device=_device(map_location))
    else:
        read = partial(torch.load, map_location=map_location, weights_only=True)
    try:
        return read(path)
    except pickle.UnpicklingError as error:
        refused = re.search(r"Unsupported \w+: (?:GLOBAL )?(\S+)", str(error))
        reason = f"it holds {refused[1]}" if refused else str(error)
        raise pickle.UnpicklingError(
            f"{path!r} was refused: {reason}. Files are read with weights_only=True, because "
            "unpickling anything but tensors and plain containers can run code. If you trust the "
            "file, convert it once: checkpoint = torch.load(PATH, weights_only=False); "
            "torch.save(checkpoint['state_dict'], NEW_PATH)"
        ) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises all kinds of errors for a damaged file
        raise RuntimeError(
            f"{path!r} could not be read, it may be damaged: {type(error).__name__}: {error}"
        ) from error


def _device(map_location: Any) -> str:
    if map_location is not None and not isinstance(map_location, (str, torch.device)):
        raise TypeError(
            f"map_location must be a device for a safetensors file, got {map_location!r}"
        )
    return str(map_location or "cpu")


def _state_dict_in(checkpoint: Any, path: Path) -> Mapping[str, Any]:
    found = checkpoint
    if isinstance(checkpoint, Mapping) and "state_dict" in checkpoint:
        found = checkpoint["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise RuntimeError(
            f"{os.fspath(path)!r} holds no state dict, a dict from names to tensors, neither as a "
            f"whole nor as 'state_dict'; it is a {type(found).__name__}"
        )
    return found


def _below(prefix: str, entries: Mapping[str, Any], path: Path) -> StateDict:
    dotted = prefix if prefix.endswith(".") else f"{prefix}."
    found = {k.removeprefix(dotted): v for k, v in entries.items() if k.startswith(dotted)}
    if not found:
        tops = ", ".join(repr(top) for top in sorted({key.split(".")[0] for key in entries}))
        raise AssertionError(
            f"nothing in {os.fspath(path)!r} has the prefix {dotted!r}; its names begin with {tops}"
        )
    return found


def _copy_into(module: nn.Module, state_dict: StateDict, metadata: Mapping[str, Any]) -> list[str]:
    """Copy by each module's own loading code, hooks included; return what did not fit."""
    keys = IncompatibleKeys([], [])
    problems: list[str] = []

    def load(module: nn.Module, local: StateDict, prefix: str) -> None:
        if isinstance(module, WRAPPERS):
            module = module.module
        module._load_from_state_dict(
            local, prefix, metadata.get(prefix[:-1], {}), True, *keys, problems
        )
        for name, child in module._modules.items():
            if child is not None:
                below = f"{prefix}{name}."
                load(child, {k: v for k, v in local.items() if k.startswith(below)}, below)
        for hook in module._load_state_dict_post_hooks.values():
            if hook(module, keys) is not None:
                raise AssertionError(
                    f"the load_state_dict post-hook {hook!r} of {type(module).__name__} must "
                    "change its keys in place and return None"
                )

    load(module, state_dict, "")
    missing = [key for key in keys.missing_keys if "num_batches_tracked" not in key]
    if keys.unexpected_keys:
        problems.append(f"not in the model: {', '.join(keys.unexpected_keys)}")
    if missing:
        problems.append(f"not in the checkpoint: {', '.join(missing)}")
    return problems
