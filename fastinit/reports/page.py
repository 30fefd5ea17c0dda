"""One page of HTML, which needs no network: a table to sort and to filter, under a picture."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawn(Protocol):
    """What can be drawn, on light paper and on dark."""

    def figure(self, *, dark: bool = False) -> Figure:
        """Return the picture."""


def page(
    title: str,
    summary: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    notes: Iterable[str] = (),
    drawn: Drawn | None = None,
) -> str:
    """Return a page of HTML.

    Args:
        title: the model's name.
        summary: a line or two of numbers.
        columns: the keys of the rows that are shown, in this order.
        rows: a value for each column; numbers are aligned and sorted as such. `"status"` is the
            class of a row: `"flagged"` stands out, `"dim"` stands back.
        notes: further lines that stand out.
        drawn: the picture, which needs matplotlib.
    """
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        summary=escape(summary),
        notes="".join(f"<li>{escape(text)}</li>" for text in notes),
        picture="" if drawn is None else _picture(drawn),
        columns=_script(list(columns)),
        rows=_script([dict(row) for row in rows]),
    )


def save(figure: Figure, path: Path | io.BytesIO, kind: str) -> None:
    """Write a picture, the same bytes for the same picture."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "fastinit"}):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(path, format=kind, dpi=150, metadata=metadata)


def _picture(drawn: Drawn) -> str:
    light, dark = (_embedded(drawn.figure(dark=is_dark)) for is_dark in (False, True))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="the table below as a picture"></picture>'
    )


def _embedded(figure: Figure) -> str:
    held = io.BytesIO()
    save(figure, held, "svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(held.getvalue()).decode()}"


def _script(data: object) -> str:
    return json.dumps(data).replace("<", "\\u003c")
