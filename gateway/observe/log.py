"""The gateway's own log lines: structlog set up, and the standard library's loggers led into it.

`structlog.get_logger("gateway.edge")` gives a logger; events are names with fields, never formatted
text. Lines go through the same writer as the access records, so that they never interleave. Not
here: access records (access.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.observe.access import RecordWriter, Timestamps, json_line, printable

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
# First in a line, in this order; other fields follow as they were given.
_FIRST = ("timestamp", "level", "message", "logger")


class Levels:
    """Which loggers say what: `LOG_LEVEL`, such as `info,gateway.edge=debug`.

    A bare level is the default; `name=level` holds for that logger and those below it, the longest
    name winning. Raises ValueError for a level that is none of `LEVELS`.
    """

    def __init__(self, text: str) -> None:
        self._default = logging.INFO
        self._by_name: dict[str, int] = {}
        for part in filter(None, map(str.strip, text.split(","))):
            name, _, level = part.rpartition("=")
            if level.strip().lower() not in LEVELS:
                raise ValueError(
                    f"unknown log level {level!r}, expected one of {', '.join(LEVELS)}"
                )
            if name:
                self._by_name[name.strip()] = LEVELS[level.strip().lower()]
            else:
                self._default = LEVELS[level.strip().lower()]

    def __repr__(self) -> str:
        return f"<Levels default={self._default} {self._by_name}>"

    def of(self, name: str) -> int:
        """The level from which on the logger `name` is heard."""
        while name:
            if name in self._by_name:
                return self._by_name[name]
            name = name.rpartition(".")[0]
        return self._default

    @property
    def lowest(self) -> int:
        """The lowest level that any logger is heard at."""
        return min([self._default, *self._by_name.values()])


class LineLogger:
    """What structlog calls with a finished line; it knows its name, for the levels."""

    def __init__(self, name: str, put: Callable[[bytes], None]) -> None:
        self.name = name
        self._put = put

    def __repr__(self) -> str:
        return f"<LineLogger {self.name}>"

    def msg(self, line: bytes) -> None:
        """Write one line."""
        self._put(line)

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


class StandardHandler(logging.Handler):
    """Leads the records of the standard library's loggers (asyncio, aiohttp) into structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log `record` as an event of the logger of its name."""
        try:
            fields: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
            logger = structlog.get_logger(record.name)
            logger.log(_known_level(record.levelno), record.getMessage(), **fields)
        except Exception:
            self.handleError(record)


def configure(writer: RecordWriter, level: str, *, console: bool) -> Callable[[], None]:
    """Make structlog and the standard library's root logger write through `writer`.

    `level` is `LOG_LEVEL`; `console` asks for coloured lines for a terminal instead of JSON. A
    later call takes the place of an earlier one. Returns a function that puts things back as they
    were. Raises ValueError for an unknown level.
    """
    levels = Levels(level)
    timestamps = Timestamps()

    def begin(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        name = logger.name
        level = event["level"]
        if LEVELS[level] < levels.of(name):
            raise structlog.DropEvent
        begun: EventDict = {
            "timestamp": timestamps.at(time.time()),
            "level": level,
            "message": event.pop("event", ""),
            "logger": name,
        }
        begun.update((key, value) for key, value in event.items() if key not in _FIRST)
        return begun

    render: Processor = _render_console if console else _render_json
    before = structlog.get_config()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            begin,
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(levels.lowest),
        logger_factory=lambda *names: LineLogger(names[0] if names else "", writer.write_now),
        # Loggers made before a reload must follow it; log lines are rare enough to be looked up.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    before_handlers, before_level = root.handlers[:], root.level
    root.handlers = [StandardHandler()]
    root.setLevel(levels.lowest)

    def restore() -> None:
        structlog.configure(**before)
        root.handlers = before_handlers
        root.setLevel(before_level)

    return restore


def _known_level(level: int) -> int:
    """The nearest of our levels at or below `level`; libraries are free to invent some."""
    return max((known for known in LEVELS.values() if known <= level), default=logging.DEBUG)


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    return json_line(dict(event))


_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}


def _render_console(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    """A short line for a terminal; a traceback follows on lines of its own."""
    level = event["level"]
    fields = [
        f"{_DIM}{printable(key)}={_RESET}{printable(str(value))}"
        for key, value in event.items()
        if key not in _FIRST and key != "exception"
    ]
    parts = [
        f"{_DIM}{event['timestamp'][11:23]}{_RESET}",
        f"{_COLOURS.get(level, '')}{level}{_RESET}",
        printable(str(event["message"])),
        *fields,
        f"{_DIM}{printable(event['logger'])}{_RESET}",
    ]
    lines = ["  ".join(parts)]
    lines += [f"    {printable(line)}" for line in str(event.get("exception", "")).splitlines()]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
