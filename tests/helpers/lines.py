"""A handler that keeps what is logged."""

from __future__ import annotations

import logging


class Lines(logging.Handler):
    """A handler of messages from INFO on."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
