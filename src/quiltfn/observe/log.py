"""The server's log: one JSON object per line on standard error."""

import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from quiltfn.observe.trace import current

LogLine = MutableMapping[str, Any]
# Called with every line, in the thread that writes the line. Must not raise or block.
_reader: Callable[[LogLine], None] | None = None


def configure() -> None:
    """Call once, before anything is logged."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hand_on,
            # ASCII only, so that no data of a caller reaches a terminal as a control sequence.
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def read_by(reader: Callable[[LogLine], None] | None) -> None:
    """From now on, also pass every line to `reader`; None: to nobody."""
    global _reader
    _reader = reader


def _hand_on(_logger: Any, _method: str, line: LogLine) -> LogLine:
    """Add the ids of the traced request in progress, and pass the line to the reader."""
    request = current.get()
    if request is not None:
        line["trace_id"] = f"{request.trace_id:032x}"
        line["span_id"] = f"{request.span_id:016x}"
    if _reader is not None:
        _reader(line)
    return line
