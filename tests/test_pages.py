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
    "deepspeed.",
    "accelerator",
    "train_loader",
    "from mmengine",
    "mmengine.install",
)
# Each block by itself, in a copy of one process that has loaded torch.
RUN = """
import os, pathlib, sys, traceback
import torch, fastinit
failed = []
for path in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        code = 0
        try:
            text = pathlib.Path(path).read_text("utf-8")
            exec(compile(text, path, "exec"), {"__name__": "block"})
        except BaseException:
            code = 1
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    if os.waitpid(child, 0)[1]:
        failed.append(path)
sys.exit(f"failed: {failed}" if failed else 0)
"""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    return [code for code in found if not any(text in code for text in OTHERS)]


def test_blocks_run(tmp_path: Path) -> None:
    # Translations have the same code: tests/test_translations.py.
    pages = [page for page in PAGES if "zh" not in name(page)]
    paths = []
    for page in pages:
        for n, code in enumerate(blocks(page)):
            paths.append(tmp_path / f"{page.stem}_{n}.py")
            paths[-1].write_text(code, encoding="utf-8")
    assert len(paths) >= 15
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", RUN, *map(str, paths)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


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
