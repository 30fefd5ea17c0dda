"""Checkpoints of torch.distributed.checkpoint: a folder that many ranks have written.

Its description is a pickle, and torch would unpickle whatever that names. Here it becomes inert
records, whose plain fields alone make the description that torch's reader gets.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

# Plain containers, whose types nothing can change.
_CONTAINERS = {("torch", "Size"): torch.Size, ("builtins", "set"): set}


class _Record:
    """An object of a description: it keeps its arguments and its state, and does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def get(self, name: str, place: int | None = None) -> Any:
        if isinstance(self.state, dict):
            return self.state.get(name)
        return None if place is None else self.state[place]


class _Unpickler(pickle.Unpickler):
    """An unpickler that makes records of all objects, each of a class of its own."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        dtype = getattr(torch, name, None) if module == "torch" and "." not in name else None
        if isinstance(dtype, torch.dtype):
            return dtype
        own = {"__init__": _Record.__init__, "__setstate__": _Record.__setstate__}
        return type(name.rpartition(".")[2], (_Record,), own)


class _Reader(FileSystemReader):
    """A reader with a description that is known."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._known = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._known


class _Planner(DefaultLoadPlanner):
    """A planner of tensors, and of nothing that would have to be unpickled."""

    def load_bytes(self, *args: Any) -> None:
        raise pickle.UnpicklingError("it is to be read as an object")


class Stored:
    """The tensors of a checkpoint.

    Args:
        folder: has a file `.metadata`.

    Attributes:
        tree: the tensors on meta, nested as they were saved.

    Raises:
        RuntimeError: it is damaged, or names files elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self._told_as_damage():
            record = _Unpickler(io.BytesIO((folder / ".metadata").read_bytes())).load()
            self._metadata = _rebuilt(record)
            described: dict[str, Any] = dict(self._metadata.state_dict_metadata)
            flat = {
                name: torch.empty(stored.size, dtype=stored.properties.dtype, device="meta")
                for name, stored in described.items()
            }
            self._names = {id(tensor): name for name, tensor in flat.items()}
            self.tree = _nested(flat, record.get("planner_data"))

    def take(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Return entries of the tree in memory of the CPU: what else is stored is not read.

        Raises:
            RuntimeError: it is damaged.
        """
        names = {key: self._names[id(tensor)] for key, tensor in entries.items()}
        flat: dict[str, Any] = {
            names[key]: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            for key, tensor in entries.items()
        }
        with self._told_as_damage():
            planner = _Planner(flatten_state_dict=False, flatten_sharded_tensors=False)
            reader = _Reader(self._folder, self._metadata)
            _load_state_dict(flat, reader, no_dist=True, planner=planner)
        return {key: flat[name] for key, name in names.items()}

    @contextmanager
    def _told_as_damage(self) -> Iterator[None]:
        try:
            yield
        except (OSError, MemoryError):
            raise
        except (Exception, CheckpointException) as error:  # the latter is none of the former
            raise RuntimeError(
                f"{str(self._folder)!r} could not be read, it may be damaged: "
                f"{type(error).__name__}: {error}"
            ) from error


def _rebuilt(record: Any) -> Metadata:
    """Return a description of the tensors, from the plain fields of a record."""
    tensors: dict[str, Any] = {}
    for name, stored in record.get("state_dict_metadata").items():
        if type(stored).__name__ != "TensorStorageMetadata":
            continue
        dtype = stored.get("properties").get("dtype", 0)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{name!r} has the dtype {dtype!r}")
        chunks = [
            ChunkStorageMetadata(_size(c.get("offsets")), _size(c.get("sizes")))
            for c in stored.get("chunks")
        ]
        properties = TensorProperties(dtype=dtype)
        tensors[str(name)] = TensorStorageMetadata(properties, _size(stored.get("size")), chunks)
    places = {}
    for index, info in record.get("storage_data").items():
        file = str(info.get("relative_path"))
        if Path(file).name != file:
            raise ValueError(f"it names {file!r}, which is no file in the folder")
        offset, number = index.get("offset"), index.get("index")
        key = MetadataIndex(
            str(index.get("fqn")),
            None if offset is None else _size(offset),
            None if number is None else int(number),
        )
        places[key] = _StorageInfo(file, int(info.get("offset")), int(info.get("length")))
    return Metadata(state_dict_metadata=tensors, planner_data=None, storage_data=places)


def _size(value: Any) -> torch.Size:
    return torch.Size([int(length) for length in value])


def _nested(flat: dict[str, Any], paths: Any) -> dict[str, Any]:
    """Return the tensors in the dictionaries that they were saved in."""
    found: dict[str, Any] = {}
    for name, tensor in flat.items():
        path = paths.get(name) if isinstance(paths, dict) else None
        *above, last = path if isinstance(path, tuple) else (name,)
        inner = found
        for step in above:
            inner = inner.setdefault(step, {})
        inner[last] = tensor
    return found
