"""Log lines: JSON with listed fields only; nothing of a foreign exception or library gets out."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ext_authz import log
from tests.unit.fakes import SENTINEL


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Log into memory, and give the loggers back as they were."""
    own, root = logging.getLogger("ext_authz"), logging.getLogger()
    before = [(one, list(one.handlers), one.level, one.propagate) for one in (own, root)]
    written = io.StringIO()
    log.set_up("info", written)
    yield written
    for one, handlers, level, propagate in before:
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate = propagate


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_event_and_its_fields(stream: io.StringIO) -> None:
    log.info("token fetch", credential="default", outcome="ok", file=Path("/etc/c.yaml"))
    [line] = lines(stream)
    assert line.pop("time")[:2] == "20"
    assert line == {
        "level": "info",
        "event": "token fetch",
        "credential": "default",
        "outcome": "ok",
        "file": "/etc/c.yaml",
    }


def test_fields_that_are_not_listed_are_left_out(stream: io.StringIO) -> None:
    log.error("x", token=SENTINEL, authorization=SENTINEL, body=SENTINEL, code="c")
    assert SENTINEL not in stream.getvalue()
    assert lines(stream)[0]["code"] == "c"


@pytest.mark.parametrize("name", ["token", "text", "authorization", "headers", "body", "value"])
def test_no_listed_field_is_one_that_could_hold_a_token(name: str) -> None:
    assert name not in log.FIELDS


def test_only_lines_of_the_level_and_above_are_written(stream: io.StringIO) -> None:
    log.debug("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]
    log.set_up("debug", stream)
    log.debug("now")
    assert lines(stream)[-1] | {"time": ""} == {"time": "", "level": "debug", "event": "now"}


def test_of_an_exception_only_the_type_is_written(stream: io.StringIO) -> None:
    try:
        raise ValueError(SENTINEL)
    except ValueError:
        logging.getLogger("ext_authz").exception("it broke")
    assert SENTINEL not in stream.getvalue()
    assert lines(stream)[0]["exception"] == "ValueError"


@pytest.mark.parametrize("library", ["google.auth", "urllib3.connectionpool", "grpc", "requests"])
def test_what_libraries_log_below_an_error_is_silenced(stream: io.StringIO, library: str) -> None:
    log.set_up("debug", stream)
    logging.getLogger(library).debug("authorization: %s", SENTINEL)
    logging.getLogger(library).warning("body %s", SENTINEL)
    assert stream.getvalue() == ""


def test_an_error_of_a_library_is_one_line_without_its_text(stream: io.StringIO) -> None:
    error = ValueError(SENTINEL)
    logging.getLogger("asyncio").error("Task exception: %r", error, exc_info=error)
    [line] = lines(stream)
    assert SENTINEL not in stream.getvalue()
    assert line["level"] == "error"


def test_a_line_break_in_a_text_does_not_make_a_second_line(stream: io.StringIO) -> None:
    log.info("a\nb\r\x1b[31m", reason="c\nd")
    [line] = lines(stream)
    assert line["event"].startswith("a\nb")


def test_setting_up_twice_does_not_double_the_lines(stream: io.StringIO) -> None:
    log.set_up("info", stream)
    log.info("once")
    assert len(lines(stream)) == 1
