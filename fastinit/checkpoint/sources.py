"""Where checkpoints come from: from the text of a rule to a file or folder on this machine."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from fastinit.checkpoint.download import download, fetched, offline, require_hash


def located(checkpoint: str | os.PathLike[str], sha256: str | None = None) -> Path:
    """Return the file or folder of a checkpoint, downloaded if it is elsewhere.

    Args:
        checkpoint: a path (a leading `~` is expanded), or a URL: `file://`, `http://`, `https://`;
            `torchvision://resnet50` or `torchvision://ResNet50_Weights.IMAGENET1K_V1` (also
            `modelzoo://`); `open-mmlab://`, `openmmlab://` and `mmcls://`, by mmengine's tables;
            `hf://organisation/repository[/file][@revision]`; whatever fsspec knows (`s3://`,
            `gs://`), or else mmengine's file client.
        sha256: the hash that the file must have, or the first digits of it, at least eight.

    Raises:
        FileNotFoundError: it is not there; or it is not on this machine, and FASTINIT_OFFLINE or
            HF_HUB_OFFLINE is set.
        ModuleNotFoundError: the library that knows the source is not installed.
        ValueError: no library knows it, another hash than that, or a hash for a folder.
        OSError: a server that cannot be reached.
    """
    text = os.fspath(checkpoint)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", sha256):
        raise ValueError(
            f"checkpoint_sha256={sha256!r} is no SHA-256: eight to 64 hexadecimal digits, of "
            f"{text!r}"
        )
    scheme, has_scheme, rest = text.partition("://")
    resolve = _SCHEMES.get(scheme.lower(), _by_fsspec) if has_scheme else _path
    return resolve(rest, text, sha256)


def _path(rest: str, text: str, sha256: str | None) -> Path:
    return _local(text, sha256)


def _local(text: str, sha256: str | None) -> Path:
    path = Path(os.path.expanduser(text))
    if path.exists():
        return _of_hash(path, sha256)
    names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    close = get_close_matches(path.name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise FileNotFoundError(
        f"there is no checkpoint {str(path)!r}; looked in {os.getcwd()!r}{hint}"
    )


def _of_hash(path: Path, sha256: str | None) -> Path:
    if sha256 is None:
        return path
    if path.is_dir():
        raise ValueError(f"checkpoint_sha256={sha256!r} is of one file, and {str(path)!r} a folder")
    require_hash(path, sha256, str(path))
    return path


def _file(rest: str, text: str, sha256: str | None) -> Path:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise ValueError(
            f"{text!r} names the machine {host!r}; write file:///path with three slashes, or the "
            "path alone"
        )
    return _local(url2pathname(slash + path), sha256)


def _http(rest: str, text: str, sha256: str | None) -> Path:
    return download(text, sha256)


def _torchvision(rest: str, text: str, sha256: str | None) -> Path:
    try:
        models: Any = _library("torchvision.models", text)
    except ModuleNotFoundError:  # or one that was built against another torch
        if url := _older_torchvision().get(rest):
            return download(url, sha256)
        raise
    name, _, version = rest.partition(".")
    try:
        if name.endswith("_Weights"):
            return download(models.get_weight(rest).url, sha256)
        weights = models.get_model_weights(name).__members__
        version = version.upper() or ("IMAGENET1K_V1" if "IMAGENET1K_V1" in weights else "DEFAULT")
        return download(weights[version].url, sha256)
    except (ValueError, KeyError, AttributeError) as error:
        close = get_close_matches(name.lower(), models.list_models(), n=1)
        hint = f"; did you mean 'torchvision://{close[0]}'?" if close else ""
        raise FileNotFoundError(
            f"torchvision has no weights for {text!r}: {error}{hint}"
        ) from error


def _older_torchvision() -> dict[str, str]:
    """Return mmengine's table of torchvision's weights, where it is installed."""
    try:
        mmengine: Any = importlib.import_module("mmengine")
    except ImportError:
        return {}
    table = Path(mmengine.__path__[0]) / "hub" / "torchvision_0.12.json"
    return json.loads(table.read_text(encoding="utf-8")) if table.is_file() else {}


def _openmmlab(rest: str, text: str, sha256: str | None) -> Path:
    tables: Any = _library("mmengine.runner.checkpoint", text)
    known = tables.get_external_models()
    name = tables.get_deprecated_model_names().get(rest, rest)
    return _in_table(known, name, text, sha256)


def _mmcls(rest: str, text: str, sha256: str | None) -> Path:
    tables: Any = _library("mmengine.runner.checkpoint", text)
    return _in_table(tables.get_mmcls_models(), rest, text, sha256)


def _in_table(known: dict[str, str], name: str, text: str, sha256: str | None) -> Path:
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise FileNotFoundError(f"mmengine's table has no {name!r}, which {text!r} names{hint}")
    url = known[name]
    return located(url, sha256) if "://" in url else _local(url, sha256)


def _hugging_face(rest: str, text: str, sha256: str | None) -> Path:
    hub: Any = _library("huggingface_hub", text)
    parts = _HUGGING_FACE.fullmatch(rest)
    if parts is None:
        raise ValueError(
            f"{text!r} names no repository; write hf://organisation/repository[/file][@revision]"
        )
    name, early, file, late = parts.groups()
    given = {"revision": early or late, "local_files_only": offline() is not None}
    if file:
        return _of_hash(Path(hub.hf_hub_download(name, file, **given)), sha256)
    patterns = ["*.safetensors", "*.safetensors.index.json"]
    folder = Path(hub.snapshot_download(name, allow_patterns=patterns, **given))
    if not any(folder.glob("*.safetensors")):
        patterns = ["*.bin", "*.bin.index.json"]
        folder = Path(hub.snapshot_download(name, allow_patterns=patterns, **given))
    return _of_hash(folder, sha256)


# The revision may be behind the repository, as fsspec has it, or at the end.
_HUGGING_FACE = re.compile(
    r"([^/@]+/[^/@]+)(?:@((?:refs/(?:pr|convert)/)?[^/@]+))?(?:/([^@]+))?(?:@(.+))?"
)


def _by_fsspec(rest: str, text: str, sha256: str | None) -> Path:
    fsspec: Any = _library("fsspec", text)
    scheme = text.partition("://")[0]
    if variable := offline():
        raise FileNotFoundError(f"{text!r} is elsewhere, and {variable} keeps it from being read")
    if scheme in fsspec.available_protocols():
        try:
            files, path = fsspec.core.url_to_fs(text)
        except ImportError as error:  # which tells what to install
            raise ModuleNotFoundError(f"{text!r}: {error}") from error
        if files.isdir(path):
            raise FileNotFoundError(f"{text!r} is a folder; give a file in it")
        # Another version of the file has another key, and so a copy of its own.
        key = f"{text} {files.ukey(path)}"
        return _of_hash(fetched(key, text, lambda local: files.get_file(path, local)), sha256)
    try:
        fileio: Any = importlib.import_module("mmengine.fileio")
        client = fileio.get_file_backend(text)
    except (ImportError, KeyError, ValueError, AssertionError):
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise ValueError(
            f"no library that is installed knows {scheme}://, of {text!r}; known are {known}, and "
            "what fsspec and mmengine's file client know"
        ) from None
    content = client.get(text)
    key = f"{text} {hashlib.sha256(content).hexdigest()}"
    return _of_hash(fetched(key, text, lambda local: Path(local).write_bytes(content)), sha256)


def _library(name: str, text: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        package = name.partition(".")[0]
        raise ModuleNotFoundError(
            f"{text!r} is resolved by {package}, which cannot be imported ({error}); "
            f"pip install {package}"
        ) from error


_SCHEMES: dict[str, Callable[[str, str, str | None], Path]] = {
    "file": _file,
    "http": _http,
    "https": _http,
    "torchvision": _torchvision,
    "modelzoo": _torchvision,
    "open-mmlab": _openmmlab,
    "openmmlab": _openmmlab,
    "mmcls": _mmcls,
    "hf": _hugging_face,
}
