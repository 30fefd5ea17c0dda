"""The command line: `fastinit plan`, `verify`, `bench`, `doctor`; also `python -m fastinit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from rich.console import Console

from fastinit.commands import bench, doctor, plan, verify
from fastinit.config import __version__, show_config

_EXAMPLES = """
examples:
  fastinit plan my_project.models:make_resnet
  fastinit plan train.py:model --html plan.html
  fastinit verify checkpoint.safetensors manifest.json
  fastinit bench --quick
  fastinit doctor
"""
_COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "plan": (plan, "who writes which parameter, without making it"),
    "verify": (verify, "which tensors still hold their initial values"),
    "bench": (bench, "this machine: torch.nn.init and fastinit by turns"),
    "doctor": (doctor, "what is native here, what falls back, and what to do"),
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="fastinit",
        description="Look at how a model is initialised. Without a command: the configuration.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--version", action="version", version=f"fastinit {__version__}")
    commands = found.add_subparsers(dest="command", metavar="COMMAND")
    for name, (module, help_text) in _COMMANDS.items():
        each = commands.add_parser(name, help=help_text, description=module.__doc__)
        each.add_argument("--traceback", action="store_true", help="of an error, in full")
        module.add(each)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status, 2 for an error."""
    given = parser().parse_args(argv)
    if given.command is None:
        show_config()
        return 0
    try:
        return int(_COMMANDS[given.command][0].run(given, Console()))
    except Exception as error:
        if given.traceback:
            raise
        name = type(error).__name__
        print(f"fastinit {given.command}: {name}: {error}", file=sys.stderr)
        print("(--traceback shows where)", file=sys.stderr)
        return 2
