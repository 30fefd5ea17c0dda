"""Put the figures of committed results into the pages that tell them.

    python -m bench.figures            rewrites README and docs/
    python -m bench.figures --check    tells what it would rewrite, and fails if that is anything

A page marks a figure by comments that readers do not see:

    <!-- figure: models case=llama-1.1b competitors.torch.median_s .2f -->4.68<!-- /figure -->

That is a file of bench/results, the records that are meant (key=value, all of which must match, "~"
for a blank), the path of a number in them, and how it is written. A path may be the difference of
two (a-b); a format may begin with a factor (*1e3:.1f). Of several records `min:`, `max:` or
`median:` before the path takes one number; `count` is how many there are.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"(<!-- figure: (.+?) -->)(.*?)(<!-- /figure -->)", re.S)
OF_SEVERAL = {"min": min, "max": max, "median": statistics.median}


@cache
def records(name: str) -> list[dict[str, Any]]:
    """Return the lines of a file of results."""
    text = (ROOT / "bench" / "results" / f"{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def number(record: dict[str, Any], path: str) -> float:
    """Return the number at a path of keys, or the difference of two."""
    found = []
    for one in path.split("-"):
        value: Any = record
        for key in one.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        found.append(float(value))
    return found[0] - sum(found[1:])


def written(value: float, spec: str) -> str:
    """Return a number as a page has it."""
    factor, _, form = spec[1:].partition(":") if spec.startswith("*") else ("1", "", spec)
    return format(value * float(factor), form)


def figure(key: str) -> str:
    """Return the text of a figure.

    Raises:
        ValueError: no record matches, or several where one is meant.
    """
    name, *rest = key.split()
    wanted = [term.replace("~", " ").partition("=")[::2] for term in rest if "=" in term]
    how, *spec = (term for term in rest if "=" not in term)
    matching = [
        record for record in records(name) if all(str(record.get(k)) == v for k, v in wanted)
    ]
    if how == "count":
        return str(len(matching))
    of_several, _, path = how.rpartition(":")
    if not matching or (len(matching) > 1 and not of_several):
        raise ValueError(f"figure {key!r}: {len(matching)} records match")
    values = [number(record, path) for record in matching]
    return written(OF_SEVERAL[of_several](values) if of_several else values[0], spec[0])


def filled(text: str) -> str:
    """Return a page with its figures as the results have them."""
    return MARK.sub(lambda match: match[1] + figure(match[2]) + match[4], text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="rewrite nothing")
    arguments = parser.parse_args()
    stale = []
    for page in PAGES:
        text = page.read_text("utf-8")
        new = filled(text)
        if new != text:
            stale.append(str(page.relative_to(ROOT)))
            if not arguments.check:
                page.write_text(new, "utf-8")
    print("\n".join(stale) or "every figure is that of its result")
    if stale and arguments.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
