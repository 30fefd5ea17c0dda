"""Checkpoints of torch.distributed.checkpoint: a folder that many ranks have written."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

_METADATA = ".metadata"
# What the description of a checkpoint is made of. Torch would unpickle whatever it names.
_MODULE = "torch.distributed.checkpoint.metadata"
_OTHERS = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}


class _Unpickler(pickle.Unpickler):
    """An unpickler of descriptions of checkpoints."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OTHERS:
            return super().find_class(module, name)
        found = getattr(sys.modules.get(module), name, None) if "." not in name else None
        is_own = isinstance(found, type) and found.__module__ == module == _MODULE
        if is_own or (module == "torch" and isinstance(found, torch.dtype)):
            return found
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which no checkpoint describes")


class _Reader(FileSystemReader):
    """A reader that unpickles no more than it needs."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        data = (Path(self.path) / _METADATA).read_bytes()
        metadata: Any = _Unpickler(io.BytesIO(data)).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{_METADATA} is a {type(metadata).__name__}")
        return metadata


def read(folder: Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint, nested as they were saved, in memory of the CPU.

    Raises:
        pickle.UnpicklingError: its description holds what is refused.
        RuntimeError: it is damaged.
    """
    reader = _Reader(folder)
    try:
        metadata = reader.read_metadata()
        flat: dict[str, Any] = {
            name: torch.empty(stored.size, dtype=stored.properties.dtype)
            for name, stored in metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata)
        }
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        _load_state_dict(flat, reader, no_dist=True, planner=planner)
    except (pickle.UnpicklingError, OSError, MemoryError):
        raise
    except (Exception, CheckpointException) as error:  # the latter is none of the former
        raise RuntimeError(
            f"{str(folder)!r} could not be read, it may be damaged: {type(error).__name__}: {error}"
        ) from error
    return _nested(flat, metadata.planner_data)


def _nested(flat: dict[str, Any], paths: Any) -> dict[str, Any]:
    """Return the tensors in the dictionaries that they were saved in."""
    found: dict[str, Any] = {}
    for name, tensor in flat.items():
        *above, last = (paths or {}).get(name, (name,))
        inner = found
        for step in above:
            inner = inner.setdefault(step, {})
        inner[last] = tensor
    return found
