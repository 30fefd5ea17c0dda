"""Files of reasons: a reason in brackets, then the places that have it, * for any text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def _read(path: Path) -> list[tuple[str, re.Pattern[str]]]:
    """(reason, pattern) of each line, in its order."""
    found, reason = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            reason = line.strip("[]")
        elif line and not line.startswith("#"):
            found.append((reason, re.compile(re.escape(line).replace(r"\*", ".*"))))
    return found


def explained(path: Path, places: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The places by reason, and those that have none. The first line that fits counts."""
    known = _read(path)
    by_reason: dict[str, list[str]] = {reason: [] for reason, _ in known}
    without = []
    for place in sorted(places):
        reason = next((r for r, pattern in known if pattern.fullmatch(place)), None)
        (without if reason is None else by_reason[reason]).append(place)
    return {reason: found for reason, found in by_reason.items() if found}, without
