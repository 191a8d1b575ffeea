# SPDX-License-Identifier: Apache-2.0
"""The node agent's log: the lines of ``kubenclave.log``, without the library that makes them elsewhere.

structlog is 28 modules and 2 MB, a sixteenth of what the agent may have. Where stderr is a terminal it is used all the
same, for the eyes of people.
"""

import json
import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from kubenclave import log

_Write = Callable[[int, dict[str, Any]], None]


class Logger:
    """Writes events with the fields it is bound to; called as structlog's loggers are."""

    def __init__(self, **fields: object) -> None:
        self._fields = fields

    def bind(self, **fields: object) -> "Logger":
        """Return a logger whose events have these fields too."""
        return Logger(**(self._fields | fields))

    def info(self, event: str, **fields: object) -> None:
        """Tell what happened."""
        self.log(logging.INFO, event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Tell what should not be so."""
        self.log(logging.WARNING, event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """Tell what failed."""
        self.log(logging.ERROR, event, **fields)

    def log(self, level: int, event: str, **fields: object) -> None:
        """Write one event at a level of the standard library's; ``exception`` is a traceback as text."""
        _sink.write(level, {**self._fields, **fields, "event": event})


def configure(service: str, *, simulated: bool = False, stream: TextIO | None = None) -> None:
    """Set up the log of this process, as ``kubenclave.log.configure`` does."""
    out = sys.stderr if stream is None else stream
    if out.isatty():
        log.configure(service, simulated=simulated, stream=out)
        _sink.write = _for_people()
        return
    fixed: dict[str, object] = {"service": service, **({"simulated": True} if simulated else {})}
    _sink.write = _json_lines(out, log.least(), fixed)
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def _json_lines(out: TextIO | None, least: int, fixed: dict[str, object]) -> _Write:
    """Return what writes events of at least a level, one JSON object each, to ``out`` (None: to stderr as it is)."""

    def write(level: int, event: dict[str, object]) -> None:
        if level < least:
            return
        at = {"level": logging.getLevelName(level).lower(), "timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"}
        stream = sys.stderr if out is None else out
        stream.write(json.dumps({**event, **at, **fixed}, default=repr) + "\n")
        stream.flush()

    return write


def _for_people() -> _Write:
    import structlog  # noqa: PLC0415  # loaded by now

    logger = structlog.get_logger()
    return lambda level, event: logger.log(level, **event)


class _Sink:
    """Where events go: loggers are made before ``configure`` says."""

    write: _Write = staticmethod(_json_lines(None, logging.INFO, {}))


_sink: Final = _Sink()


class _Forward(logging.Handler):
    """Hands the standard library's records on."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {"logger": record.name}
        if record.exc_info:
            fields["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        Logger().log(record.levelno, record.getMessage(), **fields)
