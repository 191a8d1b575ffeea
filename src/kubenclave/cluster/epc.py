# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a cluster have of EPC and what its pods take. Pure: objects of the API server in, bytes out.

Reads tolerantly: what an API server has stored is not ours to refuse, and an amount that makes no sense is none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.cluster.admission.asks import CONTAINER_LISTS, ContainerKind, at_once
from kubenclave.cluster.admission.table import DIALECTS
from kubenclave.errors import FormatError
from kubenclave.platform.base import NODE_CONDITION, SIMULATED_LABEL
from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, EPC_RESOURCE, Quantity

UNITS: Final[Mapping[str, int]] = {dialect.resource: dialect.unit for dialect in DIALECTS}
"""Bytes that an amount of 1 means, by the name under which EPC is asked for."""
LEDGERS: Final = (EPC_RESOURCE, AZURE_EPC_RESOURCE)
"""Names under which a node of ours may count EPC: by the byte, or a device per MiB."""

_ENDED: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class NodeEpc:
    """One node. Sizes in bytes; ``ledgers`` are the names under which it counts EPC, more than none of each."""

    name: str
    capacity: int
    allocatable: int
    enclaves: int
    ledgers: tuple[str, ...]
    ready: bool
    simulated: bool

    @property
    def is_sgx(self) -> bool:
        """Tell whether there is, or was, anything of ours on the node."""
        return bool(self.ledgers) or self.enclaves > 0 or self.ready


@dataclass(frozen=True, slots=True)
class PodEpc:
    """One pod that asks for EPC, ``epc`` bytes of it; ``node`` is None until it is scheduled."""

    namespace: str
    name: str
    node: str | None
    epc: int

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name


def amount_of(value: object) -> int:
    """Return a whole amount as the API server holds it, 0 for anything that is none."""
    try:
        return Quantity.parse(value).whole()
    except FormatError:
        return 0


def node_epc(node: Mapping[str, Any]) -> NodeEpc:
    """Return what a Node object says about EPC."""
    status = node.get("status") or {}
    capacity, allocatable = status.get("capacity") or {}, status.get("allocatable") or {}
    metadata = node.get("metadata") or {}
    return NodeEpc(
        name=str(metadata.get("name", "")),
        capacity=_bytes(capacity),
        allocatable=_bytes(allocatable),
        enclaves=amount_of(allocatable.get(ENCLAVE_RESOURCE)),
        ledgers=tuple(name for name in LEDGERS if amount_of(capacity.get(name))),
        ready=condition(node, NODE_CONDITION).get("status") == "True",
        simulated=(metadata.get("labels") or {}).get(SIMULATED_LABEL) == "true",
    )


def pod_epc(pod: Mapping[str, Any]) -> PodEpc | None:
    """Return what a pod takes of EPC, None for one that asks for none or has ended."""
    spec, metadata = pod.get("spec") or {}, pod.get("metadata") or {}
    if (pod.get("status") or {}).get("phase") in _ENDED:
        return None
    epc = sum(asked(pod, resource) * unit for resource, unit in UNITS.items())
    if not epc:
        return None
    namespace = str(metadata.get("namespace", "default"))
    return PodEpc(namespace, str(metadata.get("name", "")), spec.get("nodeName") or None, epc)


def asked(pod: Mapping[str, Any], resource: str) -> int:
    """Return how much of a resource a pod needs at any moment."""
    return at_once((kind, _request(container, resource)) for kind, container in _by_kind(pod))


def containers(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the containers of a pod that can have EPC, init containers first."""
    return (container for _kind, container in _by_kind(pod))


def resources_of(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a container asks for: its requests, and limits that were not copied there."""
    resources = container.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def condition(holder: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return a condition in the status of an object, an empty one where it has none of that type."""
    found: Mapping[str, Any]
    for found in (holder.get("status") or {}).get("conditions") or ():
        if found.get("type") == kind:
            return found
    return {}


def _by_kind(pod: Mapping[str, Any]) -> Iterator[tuple[ContainerKind, Mapping[str, Any]]]:
    spec = pod.get("spec") or {}
    return ((ContainerKind.of(key, one), one) for key in CONTAINER_LISTS for one in spec.get(key) or ())


def _request(container: Mapping[str, Any], resource: str) -> int:
    return amount_of(resources_of(container).get(resource, 0))


def _bytes(amounts: Mapping[str, Any]) -> int:
    """Return the EPC of a node; under two names it is the same EPC twice, so the canonical name counts."""
    counted = (amount_of(amounts.get(name)) * UNITS[name] for name in LEDGERS)
    return next((size for size in counted if size), 0)
