# SPDX-License-Identifier: Apache-2.0
"""Every event that a program of ours logs is called ``thing.what-happened``."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "kubenclave"
EVENT = re.compile(r"[a-z]+\.[a-z]+(-[a-z]+)*")
LOGGERS = {"_log", "self._log"}
LEVELS = {"debug", "info", "warning", "error", "exception"}


def events() -> Iterator[tuple[str, str]]:
    """Yield place and first argument of each call of a logger; ``self._tell`` hands its own on."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            logs = node.func.attr in LEVELS and ast.unparse(node.func.value) in LOGGERS
            tells = path.match("node/kubelet.py") and ast.unparse(node.func) == "self._tell"
            if logs or tells:
                first = node.args[0]
                name = first.value if isinstance(first, ast.Constant) else ast.unparse(first)
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", str(name)


def test_events_are_spelled_one_way():
    found = {place: name for place, name in events() if name != "event"}
    assert len(found) > 30
    assert {place: name for place, name in found.items() if not EVENT.fullmatch(name)} == {}
