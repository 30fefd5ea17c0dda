"""What tables and pictures have in common: rows of equal layers, and numbers as text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

MANY = 24
"""So many rows are shown one by one; of more, those of equal layers are one row."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Item = TypeVar("Item", bound=_Named)


def grouped(
    items: Sequence[Item], apart: Callable[[Item], object] = lambda item: None
) -> list[tuple[str, list[Item]]]:
    """Return the items in rows with a label each, in the order of their first: one by one if they
    are few, else those together whose names differ in numbers alone (`layers.*.weight`), and whose
    `apart` is equal."""
    if len(items) <= MANY:
        return [(item.name, [item]) for item in items]
    rows: dict[object, list[Item]] = {}
    for item in items:
        rows.setdefault((pattern(item.name), apart(item)), []).append(item)
    return [
        (pattern(row[0].name) + f" ({len(row)})" if len(row) > 1 else row[0].name, row)
        for row in rows.values()
    ]


def pattern(name: str) -> str:
    """Return a name with `*` in place of the numbers between its dots."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def span(values: Sequence[float]) -> str:
    """Return a number, or the least and the greatest of several."""
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def as_json(data: object) -> str:
    """Return data as JSON text; what is not finite, for which JSON has no word, is null."""
    return json.dumps(_finite(data), indent=1)


def _finite(data: object) -> object:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
