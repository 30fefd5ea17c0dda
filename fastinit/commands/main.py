"""The command line: `fastinit plan`, `report` and others; also `python -m fastinit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from rich.console import Console

from fastinit.commands import bench, completion, doctor, plan, report, verify
from fastinit.config import __version__, show_config

_EXAMPLES = (
    "fastinit plan my_project.models:make_resnet",
    "fastinit plan train.py:model --html plan.html",
    "fastinit report train.py:model --input 8,3,224,224 --png report.png",
    "fastinit report before.safetensors after.safetensors",
    "fastinit report train.py:model --widths 128,256,512 --input train.py:batch",
    "fastinit verify checkpoint.safetensors manifest.json",
    "fastinit bench --quick",
    "fastinit doctor",
    'eval "$(fastinit completion bash)"',
)
_COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "plan": (plan, "who writes which parameter, without making it"),
    "report": (report, "what the values look like, and do to a signal; two compared"),
    "verify": (verify, "which tensors still hold their initial values"),
    "bench": (bench, "this machine: torch.nn.init and fastinit by turns"),
    "doctor": (doctor, "what is native here, what falls back, and what to do"),
    "completion": (completion, "a script for the tab key of bash, zsh or tcsh"),
}


def _examples(command: str = "") -> str:
    shown = (line for line in _EXAMPLES if f"fastinit {command}" in line)
    return "\n  ".join(("examples:", *shown))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="fastinit",
        description="Look at how a model is initialised. Without a command: the configuration.",
        epilog=_examples(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--version", action="version", version=f"fastinit {__version__}")
    found.set_defaults(root=found)
    commands = found.add_subparsers(dest="command", metavar="COMMAND")
    for name, (module, help_text) in _COMMANDS.items():
        each = commands.add_parser(
            name,
            help=help_text,
            description=module.__doc__,
            epilog=_examples(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
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
