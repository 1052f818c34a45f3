"""Log lines: their shape, who is heard, and the standard library's loggers led in."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import structlog

from gateway.observe.access import RecordWriter
from gateway.observe.log import Levels, LineLogger, configure


class Lines:
    """What was logged while it was set up."""

    def __init__(self) -> None:
        self.text = ""

    def json(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text.splitlines()]


def _never(_delay: float, _callback: Callable[[], None]) -> None:
    raise AssertionError("log lines do not wait for a timer")


@contextmanager
def logged(level: str = "info", *, console: bool = False) -> Iterator[Lines]:
    """Log to a pipe; the lines are there when the block ends."""
    reader, out = os.pipe()
    lines = Lines()
    writer = RecordWriter(out, _never)
    restore = configure(writer, level, console=console)
    try:
        yield lines
    finally:
        restore()
        writer.close()
        os.close(out)
        with os.fdopen(reader, "r", encoding="utf-8") as file:
            lines.text = file.read()


def test_a_line_is_json_with_the_usual_fields_first() -> None:
    with logged() as lines:
        structlog.get_logger("gateway.edge").info("listening", port=8081, timestamp="mine")
    (line,) = lines.json()
    assert list(line) == ["timestamp", "level", "message", "logger", "port"]
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {"level": "info", "message": "listening", "logger": "gateway.edge", "port": 8081}


def test_a_level_holds_for_a_logger_and_those_below_it() -> None:
    with logged("warning,gateway.edge=debug,gateway.edge.pool=error") as lines:
        for name in ("gateway", "gateway.edge", "gateway.edge.tunnel", "gateway.edge.pool", "x"):
            for method in ("debug", "info", "warning", "error"):
                getattr(structlog.get_logger(name), method)(f"{name}:{method}")
    heard = [line["message"] for line in lines.json()]
    assert heard == [
        "gateway:warning",
        "gateway:error",
        "gateway.edge:debug",
        "gateway.edge:info",
        "gateway.edge:warning",
        "gateway.edge:error",
        "gateway.edge.tunnel:debug",
        "gateway.edge.tunnel:info",
        "gateway.edge.tunnel:warning",
        "gateway.edge.tunnel:error",
        "gateway.edge.pool:error",
        "x:warning",
        "x:error",
    ]


def test_a_logger_made_before_follows_a_later_configuration() -> None:
    log = structlog.get_logger("gateway")
    with logged("error") as first:
        log.info("unheard")
    with logged("info") as second:
        log.info("heard")
    assert first.text == ""
    assert [line["message"] for line in second.json()] == ["heard"]


def test_an_exception_is_logged_with_its_traceback() -> None:
    with logged() as lines:
        try:
            raise ValueError("broken")
        except ValueError:
            structlog.get_logger("gateway").exception("failed")
    (line,) = lines.json()
    assert line["level"] == "error"
    assert str(line["exception"]).endswith("ValueError: broken")


def test_the_standard_librarys_loggers_are_led_in() -> None:
    with logged("info,noisy=error") as lines:
        logging.getLogger("asyncio").warning("took %s", "long")
        logging.getLogger("asyncio").debug("unheard")
        logging.getLogger("noisy").warning("unheard")
        logging.getLogger("odd").log(25, "between")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("aiohttp.server").exception("failed")
    lines_read = lines.json()
    shown = [(line["logger"], line["level"], line["message"]) for line in lines_read]
    assert shown == [
        ("asyncio", "warning", "took long"),
        ("odd", "info", "between"),
        ("aiohttp.server", "error", "failed"),
    ]
    assert "ValueError: broken" in str(lines_read[2]["exception"])


def test_a_record_of_no_level_counts_as_debug() -> None:
    with logged("debug") as lines:
        logging.getLogger("odd").log(3, "unheard")
        logging.getLogger("odd").handle(logging.LogRecord("odd", 3, "", 0, "deep", (), None))
    assert [(line["level"], line["message"]) for line in lines.json()] == [("debug", "deep")]


def test_a_record_that_cannot_be_formatted_is_reported_not_raised(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with logged() as lines:
        logging.getLogger("odd").warning("%d", "no number")
    assert lines.text == ""
    assert "no number" in capsys.readouterr().err


def test_things_are_put_back_as_they_were() -> None:
    root = logging.getLogger()
    before = (structlog.get_config(), root.handlers[:], root.level)
    with logged("debug"):
        assert root.handlers != before[1]
    assert (structlog.get_config(), root.handlers, root.level) == before


def test_a_line_without_a_loggers_name_is_heard_at_the_default_level() -> None:
    with logged() as lines:
        structlog.get_logger().info("nameless")
    assert lines.json()[0]["logger"] == ""


def test_the_console_line_is_for_people_and_harmless() -> None:
    with logged(console=True) as lines:
        structlog.get_logger("gateway").info("started", url="a\x1b[2Jb")
        try:
            raise ValueError("bro\x1bken")
        except ValueError:
            structlog.get_logger("gateway").exception("failed")
    first, second, *traceback = lines.text.splitlines()
    assert first[16:] == (
        "\x1b[0m  info\x1b[0m  started  \x1b[2murl=\x1b[0ma\\x1b[2Jb  \x1b[2mgateway\x1b[0m"
    )
    assert "\x1b[31merror\x1b[0m  failed" in second
    assert traceback[0] == "    Traceback (most recent call last):"
    assert traceback[-1] == "    ValueError: bro\\x1bken"


@pytest.mark.parametrize("text", ["loud", "info,gateway=loud", "gateway="])
def test_an_unknown_level_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unknown log level"):
        Levels(text)


def test_levels_show_themselves() -> None:
    levels = Levels(" info , gateway.edge = debug ,")
    assert repr(levels) == "<Levels default=20 {'gateway.edge': 10}>"
    assert levels.lowest == logging.DEBUG


def test_a_line_logger_shows_its_name() -> None:
    assert repr(LineLogger("gateway.edge", print)) == "<LineLogger gateway.edge>"
