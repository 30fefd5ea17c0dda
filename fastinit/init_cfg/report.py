"""The log of an initialization: which rule wrote which parameter.

Everything goes to the logger "fastinit". The report is written once per top-level `init_weights`,
by the main process: into each log file that was given to this logger, or else as one INFO message
per parameter. With neither, which is the default, it is not even built.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from fastinit.log import is_main_process, logger
from fastinit.plan.provenance import Initialization

Entries = Iterable[tuple[str, torch.Size, str]]


def dump(initialization: Initialization) -> None:
    """Log the report to whom it may concern."""
    if not is_main_process():
        return
    # Those of the root logger belong to the application, which wants ordinary messages in them.
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
    # Straight into the stream: the layout has no room for a formatter's time stamps.
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
