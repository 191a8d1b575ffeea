# SPDX-License-Identifier: Apache-2.0
"""A Node object, and the API server's way of patching one, as far as the node agent uses it."""

import copy
from typing import Any

from kubenclave.node.api import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH


class RefusedError(Exception):
    """The patch does not apply."""


def new_node(name: str = "sgx-1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": f"uid-of-{name}", "resourceVersion": "1", "labels": {"app": "x"}},
        "spec": spec,
        "status": {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}, "conditions": [{"type": "Ready"}]},
    }


def patched(node: dict[str, Any], kind: str, body: Any, *, status: bool) -> dict[str, Any]:
    """Return ``node`` after a patch; parts that the (sub)resource does not own keep what they are."""
    after = copy.deepcopy(node)
    if kind == JSON_PATCH:
        for step in body:
            _step(after, step)
    elif kind in (MERGE_PATCH, STRATEGIC_PATCH):
        _merge(after, body, by_type=kind == STRATEGIC_PATCH)
    else:
        raise RefusedError(kind)
    for part in ("metadata", "spec") if status else ("status",):
        after[part] = copy.deepcopy(node[part])
    return after


def _merge(target: dict[str, Any], body: dict[str, Any], *, by_type: bool) -> None:
    for key, value in body.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(key, {}), value, by_type=by_type)
        elif by_type and key == "conditions":
            names = {one["type"] for one in value}
            target[key] = [one for one in target.get(key, []) if one["type"] not in names] + value
        else:
            target[key] = value


def _step(target: Any, step: dict[str, Any]) -> None:
    *path, last = (part.replace("~1", "/").replace("~0", "~") for part in step["path"].strip("/").split("/"))
    for part in path:
        target = target[int(part) if isinstance(target, list) else part]
    at = int(last) if isinstance(target, list) else last
    try:
        if step["op"] == "test" and target[at] != step["value"]:
            raise RefusedError("test")
        if step["op"] == "remove":
            del target[at]
    except LookupError as error:
        raise RefusedError("path") from error
