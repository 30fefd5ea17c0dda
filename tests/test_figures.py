"""Figures in README and docs are those of the committed results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.figures import MARK, PAGES, ROOT, figure, filled

RATIO = re.compile(r"\b\d+(?:\.\d+)?x(?!\w)")
TELLS = [page for page in PAGES if MARK.search(page.read_text("utf-8"))]


@pytest.mark.parametrize("page", TELLS, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_are_those_of_the_results(page: Path) -> None:
    text = page.read_text("utf-8")
    assert filled(text) == text, "python -m bench.figures rewrites them"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_ratio_is_told_without_its_result(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    unmarked = MARK.sub(lambda match: "", prose.replace("<!-- /figure -->x", "<!-- /figure -->"))
    assert RATIO.findall(unmarked) == []


@pytest.mark.parametrize("page", TELLS, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_begins_with_a_mark(page: Path) -> None:
    """Markdown would begin a block there, and end the paragraph."""
    assert re.findall(r"^ *<!-- .*", page.read_text("utf-8"), re.M) == []


def test_most_figures_are_marked() -> None:
    assert sum(len(MARK.findall(page.read_text("utf-8"))) for page in TELLS) > 60


def test_a_stale_figure_is_seen() -> None:
    key = "zoo record=zoo count"
    stale = f"<!-- figure: {key} -->one<!-- /figure -->"
    assert filled(stale) == stale.replace("one", figure(key))


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("zoo record=zoo ratio .1f", r"\d+ records match"),
        ("zoo record=none ratio .1f", "0 records match"),
    ],
)
def test_a_key_that_means_no_one_record_is_refused(key: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        figure(key)
