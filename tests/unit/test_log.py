# SPDX-License-Identifier: Apache-2.0
"""What a log line may hold."""

import io
import json

import pytest
import structlog

from kubenclave import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before():
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_terminal_does_not_obey_the_names_in_a_line():
    out = Terminal()
    log.configure("up", stream=out)
    structlog.get_logger().info("granted", holder="\x1b]0;mine\x07", pid=7)
    assert r"\x1b]0;mine\x07" in out.getvalue()
    assert "\x1b]" not in out.getvalue()
    assert "\x07" not in out.getvalue()


def test_elsewhere_a_line_is_one_json_object_with_every_byte():
    out = io.StringIO()
    log.configure("up", simulated=True, stream=out)
    structlog.get_logger().info("granted", holder="\x1b]0;mine\x07\n")
    line = json.loads(out.getvalue())
    assert (line["holder"], line["service"], line["simulated"]) == ("\x1b]0;mine\x07\n", "up", True)
    assert out.getvalue().count("\n") == 1
