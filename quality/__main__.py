"""`python -m quality [SECTION ...] [--quick]`: runs the sections (all by default) and exits 1 if
one fails. A full run writes its sections into quality/REPORT.md; --quick only prints them."""

from __future__ import annotations

import argparse
import sys
import time

from fastinit import _C, __version__
from quality import accuracy, bounds, distribution, independence, report
from quality.evaluator import lanes

SECTIONS = {
    "accuracy": accuracy,
    "bounds": bounds,
    "distribution": distribution,
    "independence": independence,
}


def header() -> str:
    """The report's first lines."""
    return (
        "# How good the numbers are\n\n"
        f"fastinit {__version__}, stream v1, {_C.default_isa()} lanes for the fills and {lanes()} "
        "lanes for the functions of given words. Written by `make quality`; the code beside this "
        "file says what each test is. Seeds are fixed, so every run gives the same numbers, on "
        "every instruction set.\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m quality", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="a small part of each, half a minute")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    done = []
    for name in options.sections or SECTIONS:
        began = time.perf_counter()
        done.append(SECTIONS[name].run(options.quick))
        print(done[-1].render(), flush=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if not options.quick:
            titles = [section.TITLE for section in SECTIONS.values()]
            report.update(done[-1:], titles, header())
    return 1 if any(section.failures for section in done) else 0


if __name__ == "__main__":
    sys.exit(main())
