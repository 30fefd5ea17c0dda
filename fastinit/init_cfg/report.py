"""The report of an initialization: which rule wrote which parameter.

The main process writes it at the end of a top-level `init_weights`, to the logger "fastinit": into
each file handler of this logger that takes INFO, or else as one INFO message per parameter. If
there is no such handler and INFO is off, which is the default, the report is not built.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from fastinit.log import is_main_process, logger
from fastinit.plan.provenance import Initialization

Entries = Iterable[tuple[str, torch.Size, str]]


def dump(initialization: Initialization) -> None:
    """Write the report to the handlers that want it."""
    if not is_main_process():
        return
    # File handlers of the root logger are the application's, and get ordinary messages.
    files = [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.FileHandler) and handler.level <= logging.INFO
    ]
    if files:
        entries = initialization.report()
        for file in files:
            _write(file, entries)
    elif logger.isEnabledFor(logging.INFO) and logger.hasHandlers():
        for name, shape, info in initialization.report():
            logger.info("\n%s - %s: \n%s \n ", name, shape, info)


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
