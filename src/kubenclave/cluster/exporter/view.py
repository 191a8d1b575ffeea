# SPDX-License-Identifier: Apache-2.0
"""What the exporter remembers of a cluster: two small records, one for each node and one for each pod with EPC.

Pods are many and their objects large, so nothing of them is kept but what they take.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kubenclave.cluster.api import Event, Listing, Object
from kubenclave.cluster.epc import NodeEpc, PodEpc, node_epc, pod_epc
from kubenclave.sgx.epc import EPC_RESOURCE

_Record = TypeVar("_Record", NodeEpc, PodEpc)
Key = tuple[str, str]
"""Namespace (empty for nodes) and name."""


@dataclass(slots=True)
class Records(Generic[_Record]):
    """The records of one kind, as lists and watches bring them. ``known`` once there was a list."""

    record: Callable[[Object], _Record | None]
    known: bool = False
    held: dict[Key, _Record] = field(default_factory=dict)

    def see(self, seen: Listing | Event) -> None:
        """Take in a list, which replaces all, or one change."""
        if isinstance(seen, Listing):
            self.held = {}
            for found in seen.items:
                self._put(found)
            self.known = True
        elif seen.type == "DELETED":
            self.held.pop(_key(seen.object), None)
        else:
            self._put(seen.object)

    def _put(self, found: Object) -> None:
        record = self.record(found)
        if record is None:
            self.held.pop(_key(found), None)
        else:
            self.held[_key(found)] = record


@dataclass(slots=True)
class View:
    """The cluster. Sizes in bytes."""

    nodes: Records[NodeEpc] = field(default_factory=lambda: Records(node_epc))
    pods: Records[PodEpc] = field(default_factory=lambda: Records(pod_epc))

    @property
    def missing(self) -> str | None:
        """What has not been read yet, None when all was."""
        unread = [name for name, records in (("nodes", self.nodes), ("pods", self.pods)) if not records.known]
        return f"not read yet: {', '.join(unread)}" if unread else None

    @property
    def largest(self) -> int:
        """EPC of the node that has most."""
        return max((node.capacity for node in self.nodes.held.values()), default=0)

    def requested(self) -> Mapping[str, int]:
        """Return what the pods of each node were promised."""
        taken: Counter[str] = Counter()
        for pod in self.pods.held.values():
            if pod.node is not None:
                taken[pod.node] += pod.epc
        return taken


def reduced(pod: Object) -> Object | None:
    """Return a pod that takes the same EPC and says nothing else, None for one that takes none."""
    record = pod_epc(pod)
    if record is None:
        return None
    resources = {"requests": {EPC_RESOURCE: record.epc}}
    return {
        "metadata": {"namespace": record.namespace, "name": record.name},
        "spec": {"nodeName": record.node, "containers": [{"resources": resources}]},
    }


def _key(found: Object) -> Key:
    metadata = found["metadata"]
    return str(metadata.get("namespace", "")), str(metadata["name"])
