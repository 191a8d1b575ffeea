# SPDX-License-Identifier: Apache-2.0
"""Inputs for the targets: garbage, good inputs with bytes changed, good documents with members changed."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

GARBAGE = st.binary(max_size=3000)
# What length fields, numbers and text parsers are most often wrong about.
_SPLICES = [
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"\0\0\0\x80",
    b'"',
    b"\n",
    b"{",
    b"[[",
    b"- ",
    b": ",
    b"\xed\xa0\x80",
]
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "0", "-1", "64Mi", "1e9", "ff", "Revoked", "2026-01-01T00:00:00Z", "\ud800", "\0"]),
)
VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A good input with up to five changes: bytes set, put in, cut out, repeated, or the end cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([1, 2, 4, 8, 64]))
        match draw(st.sampled_from(["set", "splice", "insert", "cut", "repeat", "end"])):
            case "set" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "splice":
                splice = draw(st.sampled_from(_SPLICES))
                data[at : at + len(splice)] = splice
            case "insert":
                data[at:at] = draw(st.binary(max_size=8) | st.sampled_from(_SPLICES))
            case "cut":
                del data[at : at + size]
            case "repeat":
                data[at:at] = data[at : at + size]
            case _:
                del data[at:]
    return bytes(data)


@st.composite
def changed_json(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A good document with up to three members replaced, taken out or given to another key."""
    document = json.loads(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        parent, key = _somewhere(draw, document)
        if parent is None:
            continue
        match draw(st.sampled_from(["replace", "delete", "add"])):
            case "replace":
                parent[key] = draw(VALUES)
            case "delete":
                del parent[key]
            case _:
                if isinstance(parent, dict):
                    parent[draw(st.text(max_size=8))] = draw(VALUES)
                else:
                    parent.append(draw(VALUES))
    return json.dumps(document).encode()


def _somewhere(draw: st.DrawFn, document: Any) -> tuple[Any, Any]:
    """A container in the document and one of its keys, or nothing."""
    parent: Any = None
    key: Any = None
    value = document
    for _ in range(draw(st.integers(1, 8))):
        if not isinstance(value, dict | list) or not value:
            break
        parent = value
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        value = parent[key]
    return parent, key
