"""The report of an initialization: which rule wrote which parameter.

The main process writes it at the end of a top-level `init_weights`, to the logger "fastinit": into
each file handler of this logger that takes INFO, or else as one INFO message per parameter; and
into the files of mmengine's current logger, where a Runner has made one. If there is no such
handler and INFO is off, which is the default, the report is not built.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

import torch

from fastinit.log import is_main_process, logger
from fastinit.plan.provenance import Initialization

Entries = Iterable[tuple[str, torch.Size, str]]


def dump(initialization: Initialization) -> None:
    """Write the report to the handlers that want it."""
    if not is_main_process():
        return
    # File handlers of the root logger are the application's, and get ordinary messages.
    files, theirs = _files(logger), _files(_mmengines())
    if files or theirs:
        entries = initialization.report()
        for file in (*files, *theirs):
            _write(file, entries)
    if not files and logger.isEnabledFor(logging.INFO) and logger.hasHandlers():
        for name, shape, info in initialization.report():
            logger.info("\n%s - %s: \n%s \n ", name, shape, info)


def _files(source: logging.Logger | None) -> list[logging.FileHandler]:
    """Return a logger's file handlers that take INFO."""
    handlers = () if source is None else source.handlers
    return [h for h in handlers if isinstance(h, logging.FileHandler) and h.level <= logging.INFO]


def _mmengines() -> logging.Logger | None:
    """Return the current logger of mmengine, if it has one: asking it would make one."""
    kind: Any = getattr(sys.modules.get("mmengine.logging"), "MMLogger", None)
    instances = getattr(kind, "_instance_dict", None)
    return next(reversed(instances.values())) if instances else None


def _write(handler: logging.FileHandler, entries: Entries) -> None:
    # Past the formatter, whose time stamps would break the layout.
    handler.acquire()
    try:
        if handler.stream is None:  # opened on first use, with `delay=True`
            handler.stream = handler._open()
        handler.stream.write("Name of parameter - Initialization information\n")
        for name, shape, info in entries:
            handler.stream.write(f"\n{name} - {shape}: \n{info} \n")
        handler.stream.flush()
    finally:
        handler.release()
