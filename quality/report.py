"""Sections of the report: text and tables, and what failed in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPORT = Path(__file__).parent / "REPORT.md"


@dataclass
class Section:
    """One part of the report. It passes if nothing was noted as a failure."""

    title: str
    parts: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def text(self, paragraph: str) -> None:
        self.parts.append(paragraph)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [header, ["---"] * len(header), *rows]
        self.parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))

    def require(self, holds: bool, what: str) -> str:
        """Notes a failure unless `holds`; the word for a cell of a table."""
        if not holds:
            self.failures.append(what)
        return "pass" if holds else "**FAIL**"

    def render(self) -> str:
        verdict = f"**FAIL**: {'; '.join(self.failures)}" if self.failures else "**pass**"
        return "\n\n".join([f"## {self.title}", f"Verdict: {verdict}.", *self.parts]) + "\n"


def update(sections: Sequence[Section], order: Sequence[str], header: str) -> None:
    """Replaces these sections of the report and keeps the others, in the order of titles given."""
    kept: dict[str, str] = {}
    if REPORT.exists():
        for piece in re.split(r"^(?=## )", REPORT.read_text(encoding="utf-8"), flags=re.M)[1:]:
            kept[piece.split("\n", 1)[0].removeprefix("## ")] = piece.rstrip() + "\n"
    kept.update({section.title: section.render() for section in sections})
    body = [kept[title] for title in order if title in kept]
    REPORT.write_text("\n".join([header, *body]), encoding="utf-8")
