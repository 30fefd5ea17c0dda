"""What a file is that should be a checkpoint, by its first bytes."""

from __future__ import annotations

import os
import zipfile
from enum import Enum
from pathlib import Path

_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
_HTML = (b"<!doctype", b"<html", b"<?xml")
_LFS = b"version https://git-lfs"
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
_FOREIGN = {
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"GGUF": "a GGUF file, of llama.cpp",
    b"\x93NUMPY": "a NumPy array",
    b"%PDF": "a PDF",
    b"\x89PNG": "an image",
}


class Kind(Enum):
    """The formats that are read."""

    SAFETENSORS = "safetensors"
    TORCH = "torch.save's"
    LEGACY = "torch.save's before version 1.6"


def kind_of(path: Path, name: str | None = None) -> Kind:
    """Return the format of a file.

    Args:
        path: the file.
        name: what messages call it; by default the path.

    Raises:
        RuntimeError: it is no checkpoint; the message says what it is, and what helps.
    """
    name = os.fspath(path) if name is None else name
    with path.open("rb") as file:
        head = file.read(64)
    # First: such a file begins with any byte, the length of its header.
    if _is_safetensors(head, path):
        return Kind.SAFETENSORS
    reason = _what_else(head, path)
    if reason is not None:
        raise RuntimeError(f"{name!r} is no checkpoint: {reason}")
    if head.startswith(_ZIP):
        return Kind.TORCH
    if head.startswith(_PICKLE):
        return Kind.LEGACY
    raise RuntimeError(
        f"{name!r} is no checkpoint, or damaged: it begins with {head[:16]!r}, which "
        "neither torch.save nor safetensors writes"
    )


def _is_safetensors(head: bytes, path: Path) -> bool:
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and head[8:9] == b"{" and 8 + length <= path.stat().st_size


def _what_else(head: bytes, path: Path) -> str | None:
    if not head:
        return "it is empty; the download or the copy may have failed"
    text = head.lstrip().lower()
    if text.startswith(_HTML):
        return "it is a page of HTML or XML, such as a server's answer; download it again"
    if head.startswith(_LFS):
        return "it is the pointer of git-lfs to it; run `git lfs pull` where it came from"
    packer = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
    if packer is not None:
        return f"it is packed by {packer}; unpack it"
    foreign = next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None)
    if foreign is not None:
        return f"it is {foreign}"
    if text.startswith((b"{", b"[")):
        return "it is JSON; give the folder of an index, or the file of the weights"
    if head.startswith(_ZIP):
        return _what_else_is_zipped(path)
    return None


def _what_else_is_zipped(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "its end is missing or damaged; download or copy it again"
    tops = {name.partition("/")[2] for name in names}
    if "constants.pkl" in tops or any(name.startswith("code/") for name in tops):
        return (
            "it is a TorchScript archive, which holds code; convert it once: "
            "torch.save(torch.jit.load(PATH).state_dict(), NEW_PATH)"
        )
    if "data.pkl" not in tops:
        return f"it is a zip archive of something else ({', '.join(names[:3])}); unpack it"
    return None
