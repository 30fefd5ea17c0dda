"""Manifests from JSON: what does not fit is named by where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import torch

from fastinit.kernels import distributions, tails
from fastinit.manifest.manifest import FORMAT, VERSION, Drawn, Manifest, Written

Item = TypeVar("Item")
_STATUSES = ("filled", "computed", "unwritten")
_MOST = 1 << 63  # elements, and indices


def load(manifest: Manifest | str | Mapping[str, Any]) -> Manifest:
    """Return a manifest from JSON, as text or parsed.

    Raises:
        ValueError: it is not JSON, of another version of the stream or format, or no manifest; the
            message names the field.
    """
    if isinstance(manifest, Manifest):
        return manifest
    try:
        data = json.loads(manifest) if isinstance(manifest, str) else manifest
    except json.JSONDecodeError as error:
        text = str(manifest)
        shown = repr(text if len(text) < 60 else f"{text[:56]} ...")
        raise ValueError(
            f"the manifest {shown} is no JSON ({error}); give the text of a file, as by "
            "Path(...).read_text(), or what plan.to_json() returns"
        ) from error
    except RecursionError:
        _refuse("the manifest", "is nested too deep", "[...]")
    data = _object(data, "the manifest")
    if data.get("stream_version") != VERSION:
        raise ValueError(
            f"the manifest is of stream version {data.get('stream_version')}, this is {VERSION}"
        )
    if data.get("format", 1) not in (1, FORMAT):
        raise ValueError(
            f"the manifest is of format {data['format']}, this version reads 1 to {FORMAT}: "
            "read it with the version that made it"
        )
    return Manifest(
        _each(_written, data.get("tensors"), "tensors"),
        _each(_text, data.get("unmatched"), "unmatched"),
    )


def _refuse(where: str, what: str, value: Any) -> NoReturn:
    shown = repr(value)
    raise ValueError(f"{where} {what}, got {shown if len(shown) < 80 else shown[:76] + ' ...'}")


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        _refuse(where, "must be an object", value)
    return value


def _each(read: Callable[[Any, str], Item], value: Any, where: str) -> tuple[Item, ...]:
    if not isinstance(value, (list, tuple)):
        _refuse(where, "must be a list", value)
    return tuple(read(item, f"{where}[{n}]") for n, item in enumerate(value))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        _refuse(where, "must be a text", value)
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(where, "must be a number", value)
    return value


def _integer(value: Any, where: str, end: int = _MOST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < end:
        _refuse(where, f"must be an integer in [0, 2**{end.bit_length() - 1})", value)
    return value


def _one_of(value: Any, where: str, known: tuple[str, ...]) -> str:
    if value not in known:
        _refuse(where, f"must be one of {', '.join(known)}", value)
    return str(value)


def _dtype(value: Any, where: str) -> str:
    if not isinstance(getattr(torch, _text(value, where), None), torch.dtype):
        _refuse(where, "must be the name of a dtype", value)
    return str(value)


def _pair(value: Any, where: str) -> tuple[Any, Any]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        _refuse(where, "must be a pair", value)
    return value[0], value[1]


def _written(value: Any, where: str) -> Written:
    entry = _object(value, where)
    return Written(
        _text(entry.get("name"), f"{where}.name"),
        _each(_integer, entry.get("shape"), f"{where}.shape"),
        _dtype(entry.get("dtype"), f"{where}.dtype"),
        _one_of(entry.get("status"), f"{where}.status", _STATUSES),
        _each(_drawn, entry.get("fills"), f"{where}.fills"),
        _integer(entry.get("writes", 0), f"{where}.writes"),
        _each(_text, entry.get("aliases"), f"{where}.aliases"),
    )


def _drawn(value: Any, where: str) -> Drawn:
    entry = _object(value, where)
    names = tuple(row.name for row in distributions.DISTRIBUTIONS.values())
    rule = _one_of(entry.get("rule"), f"{where}.rule", names)
    arguments = distributions.distribution_of(rule).arguments
    parameters = _numbers(entry.get("parameters"), f"{where}.parameters")
    if unknown := parameters.keys() - {*arguments}:
        _refuse(f"{where}.parameters", f"must be of {', '.join(arguments)}", sorted(unknown))
    box = entry.get("box")
    return Drawn(
        rule,
        parameters,
        _text(entry.get("stream"), f"{where}.stream"),
        _integer(entry.get("seed"), f"{where}.seed", 1 << 64),
        _integer(entry.get("start", 0), f"{where}.start"),
        None if box is None else _each(_dimension, box, f"{where}.box"),
        _text(entry.get("origin", ""), f"{where}.origin"),
        _each(_operation, entry.get("tail", ()), f"{where}.tail"),
    )


def _numbers(value: Any, where: str) -> dict[str, float]:
    return {key: _number(item, f"{where}.{key}") for key, item in _object(value, where).items()}


def _dimension(value: Any, where: str) -> tuple[int, int]:
    size, stride = _pair(value, where)
    return _integer(size, where), _integer(stride, where)


def _operation(value: Any, where: str) -> tuple[str, dict[str, float]]:
    name, given = _pair(value, where)
    known = _one_of(name, where, tuple(tails.ARGUMENTS))
    arguments = _numbers(given, where)
    if tails.operation(known, (), arguments) is None:
        _refuse(where, f"must have the arguments {', '.join(tails.ARGUMENTS[known])}", given)
    return known, arguments
