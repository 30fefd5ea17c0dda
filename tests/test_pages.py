"""The Python blocks of README and docs run as they stand; what pages link to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastinit

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# They show how a call stands in a program of the reader's, with names that only that program has.
OTHERS = (
    "(config)",
    "ds_config",
    "accelerator",
    "train_loader",
    "from mmengine",
    "mmengine.install",
)
# Each block by itself, as if there were no other; one process a page, to load torch once.
RUN = """
import pathlib, sys, traceback
failed = False
for n, path in enumerate(sys.argv[1:]):
    try:
        code = compile(pathlib.Path(path).read_text("utf-8"), path, "exec")
        exec(code, {"__name__": f"block{n}"})
    except BaseException:
        failed = True
        traceback.print_exc()
sys.exit(failed)
"""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    return [code for code in found if not any(text in code for text in OTHERS)]


# Translations have the same code: tests/test_translations.py.
RUN_PAGES = [page for page in PAGES if blocks(page) and not re.search(r"_zh|/zh/", str(page))]


@pytest.mark.parametrize("page", RUN_PAGES, ids=name)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    paths = []
    for n, code in enumerate(blocks(page)):
        paths.append(tmp_path / f"block_{n}.py")
        paths[-1].write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", RUN, *map(str, paths)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_most_of_them_are_run() -> None:
    assert sum(len(blocks(page)) for page in PAGES) >= 15


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_reference_has_every_public_name() -> None:
    told = re.findall(r"`?fastinit\.(\w+)", (ROOT / "docs" / "api.md").read_text("utf-8"))
    assert set(fastinit.__all__) - {*told} == set()


def test_the_picture_of_the_diagram_has_its_labels() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", page, re.S)
    drawn = re.sub(r"<[^>]+>|\s", "", (ROOT / "docs" / "img" / "plan.svg").read_text("utf-8"))
    labels = re.findall(r'\["(.+?)"\]', diagram)
    assert len(labels) >= 8
    assert [label for label in labels if re.sub(r"\s", "", label) not in drawn] == []
