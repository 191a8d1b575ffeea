# SPDX-License-Identifier: Apache-2.0
"""What changed between two JSON documents, as RFC 6902 operations: as few as an object's shape allows."""

from collections.abc import Iterator
from typing import Any

Operation = dict[str, Any]


def difference(old: Any, new: Any) -> list[Operation]:
    """Return the operations that turn ``old`` into ``new``, both as JSON decodes them.

    Lists are compared entry by entry while they are as long; entries at the end are appended; any other list is
    replaced as a whole.
    """
    return list(_changes(old, new, ""))


def _changes(old: Any, new: Any, path: str) -> Iterator[Operation]:
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _object_changes(old, new, path)
    elif isinstance(old, list) and isinstance(new, list) and len(old) <= len(new):
        yield from _list_changes(old, new, path)
    elif type(old) is not type(new) or old != new:
        yield {"op": "replace", "path": path, "value": new}


def _object_changes(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[Operation]:
    for key in old:
        if key not in new:
            yield {"op": "remove", "path": f"{path}/{_escaped(key)}"}
    for key, value in new.items():
        below = f"{path}/{_escaped(key)}"
        if key in old:
            yield from _changes(old[key], value, below)
        else:
            yield {"op": "add", "path": below, "value": value}


def _list_changes(old: list[Any], new: list[Any], path: str) -> Iterator[Operation]:
    for index, (before, after) in enumerate(zip(old, new, strict=False)):
        yield from _changes(before, after, f"{path}/{index}")
    for value in new[len(old) :]:
        yield {"op": "add", "path": f"{path}/-", "value": value}


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
