"""What fastinit/README.md says of the house: few modules on the ground, names that users import."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastinit

PACKAGE = Path(fastinit.__file__).parent
README = (PACKAGE / "README.md").read_text(encoding="utf-8")


def test_at_most_eight_modules_are_in_no_room() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.suffix in (".py", ".pyi")]) <= 8


def test_the_map_shows_every_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    shown = set(re.findall(r"^\| \d \| `(\w+)/?(?:\.py)?` \|", README, re.MULTILINE))
    assert rooms <= shown


def test_every_file_that_the_map_names_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)?\w+\.py)`", README))
    assert len(named) > 20
    assert not {name for name in named if not (PACKAGE / name).exists()}


@pytest.mark.parametrize(
    "name", [n for n in fastinit.__all__ if isinstance(vars(fastinit)[n], type)]
)
def test_public_classes_have_the_names_that_users_import(name: str) -> None:
    assert repr(getattr(fastinit, name)) == f"<class 'fastinit.{name}'>"
