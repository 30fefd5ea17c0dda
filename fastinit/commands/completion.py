"""`fastinit completion`: a script that makes a shell complete the command with the tab key."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from rich.console import Console

# Metavars of arguments that are completed as paths.
_FILES = ("FILE", "CHECKPOINT", "MANIFEST", "MODULE")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def run(given: argparse.Namespace, console: Console) -> int:
    """Print the script."""
    print(script(given.root, given.shell))
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a parser.

    Raises:
        ImportError: shtab, which writes it, is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ImportError(
            "completion is written by shtab: pip install 'fastinit[completion]'"
        ) from None
    for action in _actions(parser):
        if any(word in str(action.metavar) for word in _FILES):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    written: str = shtab.complete(parser, shell)
    return written


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)
