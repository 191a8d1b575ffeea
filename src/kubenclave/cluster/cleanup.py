# SPDX-License-Identifier: Apache-2.0
"""Takes away what the node agents put on Nodes, once they are gone: the last act of an uninstallation.

Only what is ours goes: labels of other vendors where the agent noted that it added them, and the capacity of EPC with
its name, which the agents themselves never remove. Names of devices stay with value 0, because the kubelet keeps them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from kubenclave.cluster.api import NODES, NOT_FOUND, PODS, ClusterApi, Object
from kubenclave.errors import ClusterError
from kubenclave.platform.base import (
    ADDED_ANNOTATION,
    AESM_ANNOTATION,
    DRIVER_ANNOTATION,
    FOREIGN_LABELS,
    MODE_LABEL,
    NODE_CONDITION,
    NUMA_ANNOTATION,
    SGX_LABEL,
    SIMULATED_LABEL,
)
from kubenclave.sgx.epc import EPC_RESOURCE

AGENTS: Final = "app.kubernetes.io/name=kubenclave,app.kubernetes.io/component=node-agent"
_ANNOTATIONS: Final = (ADDED_ANNOTATION, NUMA_ANNOTATION, DRIVER_ANNOTATION, AESM_ANNOTATION)
_ATTEMPTS: Final = 5
_PAUSE: Final = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Step:
    """A JSON patch of a Node, or of its status."""

    subresource: str | None
    change: Sequence[Mapping[str, Any]]


def steps(node: Object, taint: str | None) -> list[Step]:
    """Return what is left to take away, nothing when the Node is clean. ``taint`` is the key of the startup taint.

    Every removal tests what it expects where a list may have moved meanwhile: then the server refuses all of it.
    """
    metadata, spec, status = (node.get(part) or {} for part in ("metadata", "spec", "status"))
    annotations = metadata.get("annotations") or {}
    added = set(annotations.get(ADDED_ANNOTATION, "").split(",")) & set(FOREIGN_LABELS)
    main = _keys("/metadata/labels", metadata.get("labels"), (SGX_LABEL, MODE_LABEL, SIMULATED_LABEL, *sorted(added)))
    main += _members("/spec/taints", spec.get("taints"), "key", taint)
    main += _keys("/metadata/annotations", annotations, _ANNOTATIONS)
    under = [change for part in ("capacity", "allocatable") for change in _epc(part, status)]
    under += _members("/status/conditions", status.get("conditions"), "type", NODE_CONDITION)
    return [Step(subresource, change) for subresource, change in ((None, main), ("status", under)) if change]


async def clean(api: ClusterApi, *, namespace: str, taint: str | None, patience: float) -> int:
    """Clean every Node and return how many had something.

    Waits up to ``patience`` seconds for the agents of ``namespace`` to be gone, for they would publish again. Raises
    ClusterError when they stay, or when a Node cannot be cleaned.
    """
    await _agents_gone(api, namespace, patience)
    listing = await api.list(NODES)
    touched = 0
    for node in listing.items:
        touched += await _clean(api, node, taint)
    return touched


async def _agents_gone(api: ClusterApi, namespace: str, patience: float) -> None:
    for _ in range(1 + int(patience / _PAUSE)):
        if not (await api.list(PODS, namespace=namespace, labels=AGENTS)).items:
            return
        await asyncio.sleep(_PAUSE)
    raise ClusterError(
        f"node agents still run in {namespace}",
        code="cleanup.agents-run",
        hint="delete the DaemonSet kubenclave-node-agent first: they would publish again",
    )


async def _clean(api: ClusterApi, node: Object, taint: str | None) -> bool:
    """Clean one Node; tell whether there was something to do."""
    name = node["metadata"]["name"]
    for attempt in range(_ATTEMPTS):
        todo = steps(node, taint)
        try:
            for step in todo:
                await api.patch(NODES, name, step.change, subresource=step.subresource)
        except ClusterError as error:
            if error.code == NOT_FOUND:
                return False
            if attempt == _ATTEMPTS - 1:
                raise
            _log.info("node.changed-meanwhile", node=name, code=error.code)
            node = await api.get(NODES, name)
            continue
        if todo:
            _log.info("node.cleaned", node=name)
        return bool(todo)
    raise AssertionError


def _keys(path: str, there: Mapping[str, str] | None, names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"op": "remove", "path": f"{path}/{_escaped(name)}"} for name in names if name in (there or {})]


def _epc(part: str, status: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _keys(f"/status/{part}", status.get(part), (EPC_RESOURCE,))


def _members(path: str, there: Sequence[Object] | None, key: str, value: str | None) -> list[dict[str, Any]]:
    """Return the removal of the members of a list with this value, from the end so that the other places hold."""
    found = [place for place, member in enumerate(there or ()) if member.get(key) == value]
    return [
        change
        for place in reversed(found)
        for change in (
            {"op": "test", "path": f"{path}/{place}/{key}", "value": value},
            {"op": "remove", "path": f"{path}/{place}"},
        )
    ]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
