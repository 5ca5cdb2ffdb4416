"""Log lines as JSON on standard error output; no ids of users or items anywhere."""

import logging
import sys
from collections import Counter
from typing import ClassVar, TextIO, cast

import structlog


class LogSink:
    """The end of log lines: one that cannot be written, as on a full disk, is counted, and costs no request."""

    lost: ClassVar[Counter[str]] = Counter()  # lines, of this process

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError:
            self.lost["lines"] += 1

    def flush(self) -> None:
        """Does nothing: each line is flushed, and one that failed would fail again."""


def configure_logging(level: str) -> None:
    """JSON lines to standard error output."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, LogSink(sys.stderr))),
        cache_logger_on_first_use=True,
    )
