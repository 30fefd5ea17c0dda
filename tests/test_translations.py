"""Pages in Chinese have the structure, the code and the figures of those in English."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAIRS = [
    (ROOT / "README.md", ROOT / "README_zh-CN.md"),
    *((ROOT / "docs" / page.name, page) for page in sorted((ROOT / "docs" / "zh").glob("*.md"))),
]
CODE = re.compile(r"^```.*?^```$", re.S | re.M)
of_pairs = pytest.mark.parametrize(
    ("english", "chinese"), PAIRS, ids=lambda page: str(page.relative_to(ROOT))
)


def prose(page: Path) -> str:
    return CODE.sub("", page.read_text("utf-8"))


def rows(page: Path) -> list[list[int]]:
    """The number of cells in every row of every table."""
    tables = re.findall(r"(?:^\|.*\n)+", prose(page), re.M)
    return [[line.count("|") for line in table.splitlines()] for table in tables]


def test_the_pages_are_there() -> None:
    names = {page.name for _, page in PAIRS}
    assert names == {"README_zh-CN.md", "index.md", "from-mmengine.md", "troubleshooting.md"}


@of_pairs
def test_code_is_equal(english: Path, chinese: Path) -> None:
    assert CODE.findall(chinese.read_text("utf-8")) == CODE.findall(english.read_text("utf-8"))


@of_pairs
def test_headings_are_as_many_and_as_deep(english: Path, chinese: Path) -> None:
    first, second = (re.findall(r"^#+(?= )", prose(page), re.M) for page in (english, chinese))
    assert second == first


@of_pairs
def test_tables_have_the_same_cells(english: Path, chinese: Path) -> None:
    assert rows(chinese) == rows(english)


@of_pairs
def test_what_stands_in_code_within_tables_is_told(english: Path, chinese: Path) -> None:
    """Names and commands; a translation that lacks one tells less."""
    first, second = (
        {
            name
            for line in re.findall(r"^\|.*", prose(page), re.M)
            for name in re.findall(r"`[^`]+`", line)
        }
        for page in (english, chinese)
    )
    assert second == first


@of_pairs
def test_figures_are_equal(english: Path, chinese: Path) -> None:
    first, second = (
        sorted(re.findall(r"<!-- figure: .+? -->", prose(page))) for page in (english, chinese)
    )
    assert second == first
