# SPDX-License-Identifier: Apache-2.0
"""Logs: one JSON object per line on stderr, or readable lines where stderr is a terminal. Entry points call it once.

Every line has ``timestamp`` (UTC), ``level``, ``event`` and ``service``, and ``simulated: true`` where no hardware
protects anything. Events are called ``thing.what-happened``, for programs to tell them apart; where something went
wrong ``error`` says what in words, with ``code`` and ``hint`` as far as there are such. What libraries say through the
standard library's logging comes out in the same form.
"""

import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:  # the node agent reads this module, and does without the library: see kubenclave.node.log
    from structlog.typing import EventDict, Processor, WrappedLogger

LEVEL_VARIABLE: Final = "KUBENCLAVE_LOG_LEVEL"

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(service: str, *, simulated: bool = False, json: bool | None = None, stream: TextIO | None = None) -> None:
    """Set up the log of this process, which calls itself ``service``.

    ``json`` None means: unless ``stream`` (stderr by default) is a terminal. The environment variable
    KUBENCLAVE_LOG_LEVEL is debug, info (default), warning or error; anything else is taken for info.
    """
    import structlog  # noqa: PLC0415  # 28 modules and 2 MB

    out = sys.stderr if stream is None else stream
    as_json = not out.isatty() if json is None else json
    fixed: dict[str, Any] = {"service": service, **({"simulated": True} if simulated else {})}

    def add_fixed(_logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
        return {**event, **fixed}

    # Where rich is installed its own would show all variables, secrets among them.
    plain = structlog.dev.plain_traceback
    renderer: Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(exception_formatter=plain)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_fixed,
            *([structlog.processors.format_exc_info] if as_json else [_unobeyed]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least()),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,  # module-level loggers follow a later configure()
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def least() -> int:
    """Return the level below which nothing is written, in numbers of the standard library's."""
    return _LEVELS.get(os.environ.get(LEVEL_VARIABLE, "").lower(), logging.INFO)


def fault(error: BaseException) -> dict[str, str]:
    """Return what a log may say of a fault of ours: type and place, never its words: they may quote a secret."""
    ours = [
        f"{frame.f_globals['__name__']}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith("kubenclave.")
    ]
    return {"error": type(error).__name__, "where": ours[-1] if ours else "a library"}


def _unobeyed(_logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
    """Escape in texts what a terminal would obey: names in them may be other people's."""
    return {
        key: value.encode("unicode_escape").decode() if isinstance(value, str) and not value.isprintable() else value
        for key, value in event.items()
    }


class _Forward(logging.Handler):
    """Hands the standard library's records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        import structlog  # noqa: PLC0415  # loaded by configure()

        logger = structlog.get_logger().bind(logger=record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)
