"""What is packed, and what it says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import fastinit

ROOT = Path(fastinit.__file__).parents[1]


def test_sources_have_what_builds_and_no_tests(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    command += ["sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert not any(name.startswith(("tests", "bench", "examples")) for name in names)
    listed = subprocess.run(
        ["git", "ls-files", "fastinit", "csrc"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    lacking = {name for name in listed if name not in names and not name.endswith("README.md")}
    assert lacking == set()
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names


def test_metadata() -> None:
    about = metadata.metadata("fastinit")
    assert about["Version"] == fastinit.__version__
    assert about["License-Expression"] == "MIT"
    assert "Typing :: Typed" in about.get_all("Classifier")
    extras = set(about.get_all("Provides-Extra"))
    assert extras == {"mmengine", "hf", "plot", "completion", "docs"}
    (command,) = metadata.entry_points(group="console_scripts", name="fastinit")
    assert command.value == "fastinit.commands.main:main"


def test_one_version() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "', text, re.M) is None
    assert 'attr = "fastinit.config.__version__"' in text
