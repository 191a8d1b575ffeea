# SPDX-License-Identifier: Apache-2.0
"""What a log line may hold."""

import io
import json
import logging

import pytest
import structlog

from kubenclave import log
from kubenclave.node import log as node_log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before():
    before, sink = structlog.get_config(), node_log._sink.write
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**before)
    node_log._sink.write = sink
    logging.root.handlers[:], logging.root.level = handlers, level


def test_a_terminal_does_not_obey_the_names_in_a_line():
    out = Terminal()
    log.configure("up", stream=out)
    structlog.get_logger().info("granted", holder="\x1b]0;mine\x07", pid=7)
    assert r"\x1b]0;mine\x07" in out.getvalue()
    assert "\x1b]" not in out.getvalue()
    assert "\x07" not in out.getvalue()


def test_a_terminal_shows_no_variables_of_what_failed():
    """They may be secrets; structlog shows them where it finds rich."""
    out = Terminal()
    log.configure("up", stream=out)

    def fail(secret):
        raise ValueError(len(secret))

    try:
        fail("emases"[::-1])
    except ValueError:
        structlog.get_logger().exception("service.failed")
    assert "ValueError: 6" in out.getvalue()
    assert "sesame" not in out.getvalue()


def test_elsewhere_a_line_is_one_json_object_with_every_byte():
    out = io.StringIO()
    log.configure("up", simulated=True, stream=out)
    structlog.get_logger().info("granted", holder="\x1b]0;mine\x07\n")
    line = json.loads(out.getvalue())
    assert (line["holder"], line["service"], line["simulated"]) == ("\x1b]0;mine\x07\n", "up", True)
    assert out.getvalue().count("\n") == 1


def lines_of(which, **options) -> list[dict[str, object]]:
    """Let one of the two loggers write some lines, without their timestamps."""
    out = io.StringIO()
    which.configure("agent", stream=out, **options)
    logger = structlog.get_logger() if which is log else node_log.Logger()
    logger.bind(resource="a/b").warning("session.over", reason="\x1b\n", paths=["x"], where=object)
    logger.info("agent.ended")
    try:
        int("a defect")
    except ValueError:
        logging.getLogger("asyncio").exception("Task failed: %s", "x")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert all(line.pop("timestamp").endswith("Z") for line in lines)
    return lines


@pytest.mark.parametrize("level", ["", "warning"])
def test_the_node_agent_writes_the_same_lines_without_the_library(monkeypatch, level):
    monkeypatch.setenv(log.LEVEL_VARIABLE, level)
    ours, theirs = lines_of(node_log, simulated=True), lines_of(log, simulated=True)
    assert ours == theirs
    assert len(ours) == (2 if level else 3)
    assert "ValueError: invalid literal" in str(ours[-1]["exception"])


def test_the_node_agent_writes_for_people_on_a_terminal():
    out = Terminal()
    node_log.configure("agent", stream=out)
    node_log.Logger(resource="a/b").error("session.over", reason="\x1b]0;mine")
    assert "session.over" in out.getvalue()
    assert r"\x1b]0;mine" in out.getvalue()
