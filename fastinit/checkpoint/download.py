"""Downloads by HTTP: whole, or not there.

A file arrives under another name beside its place, is continued after an interruption where the
server can, and takes its place when its length and hash are right. Processes that want the same
file at a time take turns by a lock beside it, so that one of them downloads; on nodes that share no
folder, one each.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import safetensors
import torch
from filelock import FileLock
from torch.hub import tqdm  # type: ignore[attr-defined]

from fastinit.checkpoint.kinds import Kind, kind_of
from fastinit.log import logger

_PATIENCE = 60.0  # seconds without an answer
_TRIES = 4
_BLOCK = 1 << 20
_OFFLINE = ("FASTINIT_OFFLINE", "HF_HUB_OFFLINE")


def download(url: str, sha256: str | None = None) -> Path:
    """Return the local copy of a file, which is downloaded if it is not there.

    Copies are kept in the folder `checkpoints` of `torch.hub.get_dir()`: those whose names tell
    their hash as torch.hub keeps them, others in a folder for the URL, because many have one name.

    Args:
        url: begins with http:// or https://.
        sha256: the hash that the file must have, or the first digits of it, at least eight. By
            default that which its name ends with, as in `resnet50-0676ba61.pth`, when it arrives.

    Raises:
        FileNotFoundError: the server does not have it, or it is not there and
            FASTINIT_OFFLINE or HF_HUB_OFFLINE is set.
        ValueError: another hash than that, or a URL that is none or names no file.
        RuntimeError: what arrives is no checkpoint, as a server's page; it is not kept.
        OSError: the server cannot be reached, or breaks off, again and again.
    """
    folder, name = _place(url)
    path = folder / name
    expected = sha256 or _hash_in(name)
    if path.is_file() and (sha256 is None or _has_hash(path, sha256)):
        return path
    if variable := offline():
        has = "has another hash" if path.is_file() else "is not there"
        raise FileNotFoundError(
            f"the copy of {url!r} in {str(folder)!r} {has}, and {variable} keeps it from being "
            "downloaded"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        if path.is_file() and (sha256 is None or _has_hash(path, sha256)):  # another was faster
            return path
        partial = folder / f".{name}.part"
        _Transfer(url, partial).run()
        try:
            _require_whole(partial, url)
            if expected is not None:
                is_by_name = "" if sha256 else ", by the digits at the end of its name"
                require_hash(partial, expected, url, is_by_name)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _place(url: str) -> tuple[Path, str]:
    """Return the folder and the name of the local copy.

    Raises:
        ValueError: the URL names no file.
    """
    name = unquote(urlsplit(url).path).replace("\\", "/").rpartition("/")[2]
    if name.strip(".") == "" or "\0" in name:
        raise ValueError(f"{url!r} names no file")
    return _checkpoints() if _hash_in(name) is not None else _folder(url), name


def fetched(key: str, url: str, fetch: Callable[[str], object]) -> Path:
    """Return the local copy of something else than a file on a server, which is made if it is not
    there.

    Args:
        key: names the copy; another version has another one.
        url: ends with the file's name.
        fetch: writes the file to the path that it is given.

    Raises:
        ValueError: the URL names no file.
        Exception: what `fetch` raises; nothing stays.
    """
    _, name = _place(url)
    folder = _folder(key)
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        if path.is_file():
            return path
        partial = folder / f".{name}.part"
        try:
            fetch(str(partial))
            return partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _folder(key: str) -> Path:
    return _checkpoints() / hashlib.sha256(key.encode()).hexdigest()[:16]


def _checkpoints() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _hash_in(name: str) -> str | None:
    """Return the digits of a hash that a file's name ends with; fewer than eight, or a date, are
    none."""
    found = re.search(r"-(?!(?:19|20)\d{6}\.)([0-9a-f]{8,64})\.[^.]+$", name)
    return found[1] if found else None


def offline() -> str | None:
    """Return the variable that is set to keep everything on this machine; None without."""
    return next((v for v in _OFFLINE if os.environ.get(v, "0") not in ("", "0")), None)


def _require_whole(path: Path, url: str) -> None:
    """Require that a file is a checkpoint, and, as far as its format tells, whole: not all servers
    say how long a file is.

    Raises:
        RuntimeError: it is not.
    """
    if kind_of(path, url) is Kind.SAFETENSORS:
        try:
            with safetensors.safe_open(path, "pt"):
                pass
        except Exception as error:
            raise RuntimeError(f"{url!r} is damaged, it may have broken off: {error}") from error


def require_hash(path: Path, expected: str, source: str, why: str = "") -> None:
    """Require that a file's SHA-256 begins with the digits.

    Args:
        path: the file.
        expected: the digits.
        source: what the message calls it.
        why: which digits those are.

    Raises:
        ValueError: it does not.
    """
    if not _has_hash(path, expected):
        raise ValueError(
            f"{source!r} has the SHA-256 {_sha256(path)}, not {expected}{why}; it may have been "
            "replaced, or a server in between has answered in its place"
        )


def _has_hash(path: Path, expected: str) -> bool:
    return _sha256(path).startswith(expected.lower())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _Transfer:
    """One transfer, in as many tries as it takes."""

    def __init__(self, url: str, path: Path) -> None:
        self._url, self._path = url, path
        self._validator: str | None = None  # by which a server knows what it has sent a part of

    def run(self) -> None:
        """Write all of the file; however it fails, nothing stays."""
        logger.info("download %s", self._url)
        self._path.unlink(missing_ok=True)
        try:
            for failed in range(1, _TRIES + 1):
                problem = self._try()
                if problem is None:
                    return
                if failed < _TRIES:
                    logger.warning("%s broke off (%s); trying again", self._url, problem)
                    _wait(0.5 * 2**failed)
            raise OSError(
                f"{self._url!r} could not be downloaded in {_TRIES} tries: {problem}"
            ) from problem
        except BaseException:
            self._path.unlink(missing_ok=True)
            raise

    def _try(self) -> Exception | None:
        """Return what another try may not meet again."""
        try:
            self._receive()
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 416, 429):
                raise FileNotFoundError(
                    f"{self._url!r}: the server answers {error.code} {error.reason}"
                ) from error
            return error
        except InvalidURL as error:
            raise ValueError(f"{self._url!r} is no URL: {error}") from error
        except (OSError, HTTPException) as error:
            return error
        return None

    def _receive(self) -> None:
        have = self._path.stat().st_size if self._validator and self._path.exists() else 0
        headers = {"User-Agent": "fastinit", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": str(self._validator)}
        url = quote(self._url, safe="%/:?#[]@!$&'()*+,;=~")  # as browsers take them, with spaces
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            if answer.status != 206:  # the whole of it
                have = 0
            etag = answer.headers.get("ETag", "")
            self._validator = etag if etag and not etag.startswith("W/") else None
            rest = answer.headers.get("Content-Length")
            total = None if rest is None else have + int(rest)
            with (
                self._path.open("ab" if have else "wb") as file,
                _Bar(self._path, have, total) as told,
            ):
                while block := answer.read(_BLOCK):
                    file.write(block)
                    have += len(block)
                    told(len(block))
        if total is not None and have != total:
            raise ConnectionError(f"{have} of {total} bytes have arrived")


def _wait(seconds: float) -> None:
    time.sleep(seconds)


class _Bar:
    """A progress bar on a terminal; called with each number of bytes."""

    def __init__(self, path: Path, have: int, total: int | None) -> None:
        is_shown = sys.stderr.isatty()
        self._bar: Any = tqdm(
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            desc=path.name.strip(".").removesuffix(".part"),
            disable=not is_shown,
        )

    def __enter__(self) -> Callable[[int], Any]:
        update: Callable[[int], Any] = self._bar.update
        return update

    def __exit__(self, *_: Any) -> None:
        self._bar.close()
