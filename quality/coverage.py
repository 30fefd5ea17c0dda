"""`python -m quality.coverage`: writes quality/COVERAGE.md from what `make coverage` has measured.

What no run reached has a reason in quality/uncovered.ini, or the exit status is 1.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from quality.reasons import explained
from quality.report import Section

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "quality" / "COVERAGE.md"
REASONS = ROOT / "quality" / "uncovered.ini"
MEASURED = ROOT / "build" / "coverage"

HEADER = """# What the tests reach

Written by `make coverage`, on a machine with {machine} and no GPU. Python: the whole suite,
lines and branches, processes that tests start included. C++: the tests of kernels, stream,
capture, plan, models and tensors, tests/test_init.py, and tests/native/fill_test.cpp, on an
extension that gcc instrumented at -O1; headers count with the folder that they are in, and a line
of a template counts as reached if one of its instances reaches it. tests/gpu/ covers what needs a
GPU, on such a machine alone: nothing of that is counted here.
"""


@dataclass
class Part:
    """Lines and branches of a room or folder."""

    lines: int = 0
    reached: int = 0
    branches: int = 0
    taken: int = 0
    missed: dict[str, int] = field(default_factory=dict)  # "file function" -> lines

    def row(self, name: str) -> list[str]:
        branches = f"{self.taken / self.branches:.1%}" if self.branches else ""
        lines = f"{self.reached / self.lines:.1%}" if self.lines else ""
        return [name, str(self.lines), lines, str(self.branches or ""), branches]


def python_parts(measured: Path) -> dict[str, Part]:
    """By room, from coverage.py's JSON."""
    parts: dict[str, Part] = defaultdict(Part)
    for name, found in json.loads(measured.read_text())["files"].items():
        path = Path(name)
        part = parts["/".join(path.parts[:2]) if len(path.parts) > 2 else "fastinit/*.py"]
        summary = found["summary"]
        part.lines += summary["num_statements"]
        part.reached += summary["covered_lines"]
        part.branches += summary["num_branches"]
        part.taken += summary["covered_branches"]
        for function, lines in found["functions"].items():
            if lines["missing_lines"]:
                part.missed[f"{name} {function or '(module)'}"] = len(lines["missing_lines"])
    return parts


def native_parts(folder: Path) -> dict[str, Part]:
    """By folder of csrc/, from what gcov says of each object that has run."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    spans: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    notes = sorted(folder.glob("*.gcno"))
    command = ["gcov", "--json-format", "--stdout", "--demangled-names"]
    for note in notes:
        run = subprocess.run([*command, str(note)], capture_output=True, text=True, cwd=folder)
        for text in run.stdout.splitlines():
            for file in json.loads(text)["files"]:
                path = (folder / file["file"]).resolve()
                if not path.is_relative_to(ROOT / "csrc"):
                    continue
                name = str(path.relative_to(ROOT))
                for line in file["lines"]:
                    counts[name][line["line_number"]] += line["count"]
                for function in file["functions"]:
                    plain = _plain(function["demangled_name"])
                    spans[name][plain] = (function["start_line"], function["end_line"])
    parts: dict[str, Part] = defaultdict(Part)
    for name, lines in counts.items():
        part = parts["/".join(Path(name).parts[:2]) if name.count("/") > 1 else "csrc/*.cpp"]
        part.lines += len(lines)
        missed = [n for n, count in lines.items() if count == 0]
        part.reached += len(lines) - len(missed)
        for n in missed:
            around = [
                (end - start, f) for f, (start, end) in spans[name].items() if start <= n <= end
            ]
            key = f"{name} {min(around)[1] if around else '(file)'}"
            part.missed[key] = part.missed.get(key, 0) + 1
    return parts


def _plain(demangled: str) -> str:
    """The name of a function alone: without namespaces, arguments and those of templates."""
    if "{lambda" in demangled or "_FUN" in demangled:
        return "lambda"
    text = demangled.replace("(anonymous namespace)::", "")
    while "<" in text and "operator<" not in text:
        shorter = re.sub(r"<[^<>]*>", "", text)
        if shorter == text:
            break
        text = shorter
    return text.split("(")[0].split(" ")[-1].removeprefix("fastinit::")


def _listed(places: dict[str, int]) -> str:
    by_file: dict[str, list[str]] = defaultdict(list)
    for place, lines in places.items():
        file, _, function = place.partition(" ")
        by_file[file].append(f"{function} ({lines})")
    return "; ".join(f"`{file}`: {', '.join(names)}" for file, names in by_file.items())


def _total(parts: Iterable[Part]) -> Part:
    total = Part()
    for part in parts:
        for name in ("lines", "reached", "branches", "taken"):
            setattr(total, name, getattr(total, name) + getattr(part, name))
    return total


def main() -> int:
    from fastinit import _C

    python = python_parts(MEASURED / "python.json")
    native = native_parts(MEASURED)
    section = Section("")
    for title, parts in (("Python", python), ("C++", native)):
        section.text(f"## {title}")
        rows = [parts[name].row(name) for name in sorted(parts)]
        rows.append(_total(parts.values()).row("all"))
        section.table(["room", "lines", "reached", "branches", "taken"], rows)
    missed = {p: n for part in (*python.values(), *native.values()) for p, n in part.missed.items()}
    by_reason, without = explained(REASONS, missed)
    section.text("## What they do not reach, and why\n\nFunctions, and how many lines of each.")
    rows = []
    for reason, places in (*by_reason.items(), ("**none known**", without)):
        lines = {place: missed[place] for place in places}
        rows.append([reason, str(sum(lines.values())), _listed(lines)])
    section.table(["why", "lines", "where"], rows)
    header = HEADER.format(machine=f"{', '.join(_C.isas())} lanes")
    REPORT.write_text("\n\n".join([header.rstrip(), *section.parts]) + "\n", encoding="utf-8")
    for place in without:
        print(f"not reached, and without a reason in {REASONS.name}: {place}", file=sys.stderr)
    return int(bool(without))


if __name__ == "__main__":
    sys.exit(main())
