"""Reading what a file or folder holds: a mapping from names to tensors, or one that contains such.

Nothing that a checkpoint holds is run: files by torch.save are read with `weights_only`, foreign
objects as stand-ins. On the CPU the values stay in the file until they are copied.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from fastinit.checkpoint import standins
from fastinit.checkpoint.kinds import Kind, kind_of

_WHOLE = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin")
_INDEX = tuple(f"{name}.index.json" for name in _WHOLE)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


class Content(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        tree: nested dictionaries of tensors and others; the tensors of a folder by
            torch.distributed.checkpoint are on meta.
        take: returns a dictionary of entries of it with their values.
    """

    tree: Any
    take: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda entries: entries


def read(path: Path, map_location: Any = "cpu") -> Content:
    """Return what a checkpoint holds.

    Args:
        path: a file by torch.save or safetensors; or a folder with one, with the shards of one and
            their index as Hugging Face's libraries write them, or by torch.distributed.checkpoint.
        map_location: where to read to, as for `torch.load`; for safetensors a device or None.

    Raises:
        RuntimeError: it is no checkpoint, or damaged.
        ValueError: a `map_location` that this machine does not have.
        TypeError: a `map_location` that safetensors does not take.
        pickle.UnpicklingError: it holds what is refused.
    """
    _require_device(map_location)
    if not path.is_dir():
        return Content(_read_file(path, map_location))
    if (path / ".metadata").is_file():
        from fastinit.checkpoint import distributed  # which imports much of torch.distributed

        stored = distributed.Stored(path)
        return Content(stored.tree, stored.take)
    return Content(_read_folder(path, map_location))


def _read_file(path: Path, map_location: Any) -> Any:
    kind = kind_of(path)
    device = _device(map_location) if kind is Kind.SAFETENSORS else "cpu"
    is_here = str(map_location or "cpu") == "cpu"
    readers: Mapping[Kind, Callable[[], Any]] = {
        Kind.SAFETENSORS: lambda: safetensors.torch.load_file(path, device=device),
        Kind.TORCH: lambda: standins.load(str(path), map_location, mmap=is_here),
        Kind.LEGACY: lambda: torch.load(path, map_location=map_location, weights_only=True),
    }
    try:
        return readers[kind]()
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises all kinds of errors for a damaged file
        raise RuntimeError(
            f"{str(path)!r} could not be read, it may be damaged: {type(error).__name__}: {error}"
        ) from error


def _refused(path: Path, error: pickle.UnpicklingError) -> pickle.UnpicklingError:
    found = re.search(r"(?:Unsupported \w+: |unsupported )(?:GLOBAL )?(\S+)", str(error))
    reason = f"it holds {found[1]}" if found else str(error).partition("WeightsUnpickler error:")[2]
    return pickle.UnpicklingError(
        f"{str(path)!r} was refused: {reason.strip() or error}. Files are read with "
        "weights_only=True, because unpickling anything but tensors and plain containers can run "
        "code. If you trust the file, convert it once: checkpoint = torch.load(PATH, "
        "weights_only=False); torch.save(checkpoint['state_dict'], NEW_PATH)"
    )


def _require_device(map_location: Any) -> None:
    is_name = isinstance(map_location, (str, torch.device))
    if is_name and torch.device(map_location).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"map_location={str(map_location)!r}, but this machine has no CUDA; use 'cpu'"
        )


def _device(map_location: Any) -> str:
    if map_location is not None and not isinstance(map_location, (str, torch.device)):
        raise TypeError(
            f"map_location must be a device for a safetensors file, got {map_location!r}"
        )
    return str(map_location or "cpu")


def _read_folder(folder: Path, map_location: Any) -> Any:
    for name in (*_INDEX, *_WHOLE):
        if (folder / name).is_file():
            path = folder / name
            is_index = name in _INDEX
            return _read_shards(path, map_location) if is_index else _read_file(path, map_location)
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if len(files) == 1:
        return _read_file(files[0], map_location)
    told = f"give one of its files: {_told(files)}" if files else "no file in it is one"
    raise RuntimeError(f"{str(folder)!r} is a folder, and not a checkpoint as a whole; {told}")


def _read_shards(index: Path, map_location: Any) -> dict[str, Any]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {key: str(name) for key, name in places.items()}
    except (ValueError, KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise RuntimeError(
            f"{str(index)!r} is no index of a checkpoint: {type(error).__name__}: {error}"
        ) from error
    found: dict[str, Any] = {}
    for name in dict.fromkeys(names.values()):
        if Path(name).name != name or not (index.parent / name).is_file():
            raise RuntimeError(f"{str(index)!r} names {name!r}, which is no file beside it")
        held = _read_file(index.parent / name, map_location)
        found |= {key: value for key, value in held.items() if names.get(key) == name}
    lacking = [key for key in names if key not in found]
    if lacking:
        raise RuntimeError(f"{str(index)!r} names {_told(lacking)}, which its files do not hold")
    return found


def _told(items: Iterable[Any]) -> str:
    shown = [item.name if isinstance(item, Path) else str(item) for item in items]
    return ", ".join(shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")
