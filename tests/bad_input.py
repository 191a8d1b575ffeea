# SPDX-License-Identifier: Apache-2.0
"""Bad input for any JSON API: bodies that nobody takes, documents with one member spoiled, and what a refusal is."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\.[a-z0-9]+(?:-[a-z0-9]+)*")
INSIDE = ("Traceback", 'File "', ".py", "sqlite", "msgspec", "/state")
"""What no client has to know."""
CANARY = "canary-0d5f1b7e"
"""Text of somebody's own, which no answer repeats where a member may be a secret."""

BODIES = {
    "nothing": b"",
    "half": b'{"a":',
    "text": b"quote=AAAA&nonce=x",
    "twice": b'{"quote":"AAAA","quote":"BBBB"}',
    "twice inside": b'{"a":{"b":1,"b":2}}',
    "deep lists": b"[" * 20_000 + b"]" * 20_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "NUL": b"\0",
    "NUL inside": b'{"quote":"AA\0AA"}',
    "NUL behind": b"{}\0",
    "more behind": b"{} {}",
    "not UTF-8": b'{"quote":"\xff"}',
    "UTF-16": '{"quote":"AAAA"}'.encode("utf-16"),
    "mark of UTF-8": b'\xef\xbb\xbf{"quote":"AAAA"}',
    "not a number": b'{"quote":NaN}',
    "endless": b'{"quote":-Infinity}',
    "huge number": b'{"quote":' + b"9" * 6_000 + b"}",
    "huge exponent": b'{"quote":1e999999999}',
    "half a character": b'{"quote":"\\ud800"}',
    "a comment": b"{/* */}",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0C\xbf\xa6\xa3\2\0\0\0",
}

SPOILED: dict[str, Any] = {
    "nothing": None,
    "a number": 7,
    "a fraction": 0.5,
    "a truth": True,
    "a list": [],
    "an object": {},
    "empty": "",
    "a text": f"{CANARY} ?",
    "control characters": "AA\0A\x1b\r\nA",
    "other characters": "ÄÖÜ€😀",
    "half a character": "\ud800",
    "far too long": "A" * 200_000,
    "huge": 10**4000,
    "below zero": -1,
}
Member = tuple[str | int, ...]


def members(document: Any, path: Member = ()) -> Iterator[Member]:
    """Where every member of a document is, at any depth; of a list its first."""
    if path:
        yield path
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, value in list(inside)[: None if isinstance(document, dict) else 1]:
        yield from members(value, (*path, name))


def spoil(document: Any, path: Member) -> Iterator[tuple[str, Any]]:
    """The document without that member, and with every wrong value in its place."""
    without, parent = _copied(document, path)
    del parent[path[-1]]
    yield "missing", without
    for kind, value in SPOILED.items():
        changed, parent = _copied(document, path)
        parent[path[-1]] = value
        yield kind, changed


def encode(document: Any) -> bytes:
    return json.dumps(document).encode()


def native(answer: Any) -> str:
    """Check that an answer is a problem document; its code."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["title"]
    assert problem["status"] == answer.status_code
    return _plain(answer, problem["code"])


def azure(answer: Any) -> str:
    """Check that an answer is an error as Azure's clients read it; our code."""
    assert answer.headers["content-type"] == "application/json", answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert error["code"] == answer.headers["x-ms-error-code"]
    return _plain(answer, error["innererror"]["code"])


def pccs(answer: Any) -> str:
    """Check that an answer is one sentence, as PCCS gives; its code."""
    assert answer.headers["content-type"] == "text/plain; charset=utf-8", answer.text
    assert answer.text.count("\n") == 1
    assert answer.text.strip()
    return _plain(answer, answer.headers["kubenclave-error-code"])


def _plain(answer: Any, code: str) -> str:
    assert 400 <= answer.status_code < 500, f"{answer.status_code}: {answer.text}"
    assert len(answer.content) < 4096
    assert not [each for each in INSIDE if each in answer.text], answer.text
    assert NAME.fullmatch(code), code
    return code


def _copied(document: Any, path: Member) -> tuple[Any, Any]:
    """A copy of the document, and what holds the member in it."""
    changed = copy.deepcopy(document)
    parent = changed
    for name in path[:-1]:
        parent = parent[name]
    return changed, parent
