# SPDX-License-Identifier: Apache-2.0
"""What the Node object has to say about this machine, as the next change to make to it. Pure: objects in, changes out.

``next_patch`` is asked again with each answer of the API server until it has nothing left: the order is capacity and
condition, then labels and annotations, and the startup taint last, so that nothing invites pods before there is EPC.
EPC is withdrawn by writing 0, once what is missing has been missing for a while: a kubelet that restarts admits the
pods that run once more, by the EPC of its Node, and with 0 there it would end them. Meanwhile the devices are not to be
had, which keeps the scheduler from sending pods and ends none. Never by taking it away: a kubelet takes an extended
resource that is missing from allocatable for one that is not its business, and would admit a pod that names the node.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.errors import FormatError, KubenclaveError
from kubenclave.node.api import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH
from kubenclave.node.deviceplugin import EpcMode
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
    DeviceKind,
    Inventory,
)
from kubenclave.sgx.epc import (
    AZURE_EPC_RESOURCE,
    ENCLAVE_RESOURCE,
    EPC_RESOURCE,
    PROVISION_RESOURCE,
    Quantity,
    amount,
)

_MAX_MESSAGE: Final = 1024
_DEVICE_RESOURCES: Final = (ENCLAVE_RESOURCE, PROVISION_RESOURCE)


@dataclass(frozen=True, slots=True)
class Problem:
    """What stands in the way: ``reason`` as conditions have it (CamelCase), a stable ``code``, and words."""

    reason: str
    code: str
    text: str

    def __str__(self) -> str:
        return f"[{self.code}] {self.text}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the node has at this moment.

    ``usable`` tells whether pods can use its EPC, None while that cannot be told: the kubelet is between two lives, or
    the machine may have what it lacks again in a moment. What is published as EPC stays then. ``aesm`` tells whether
    somebody answers at the AESM socket, None without one.
    """

    inventory: Inventory
    usable: bool | None
    aesm: bool | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def epc_bytes(self) -> int:
        """EPC to publish, in bytes."""
        return self.inventory.epc_bytes if self.usable else 0


@dataclass(frozen=True, slots=True)
class Wishes:
    """How the administrator wants it; ``startup_taint`` is the key of a taint to take away, None for no such taint."""

    mode: EpcMode = EpcMode.CAPACITY
    startup_taint: str | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """One change: ``status`` tells whether to the status of the Node or to the rest, ``kind`` is a media type."""

    status: bool
    kind: str
    body: object


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the Node. ``warning`` as ``kubectl describe`` shows it."""

    reason: str
    message: str
    warning: bool = False


def next_patch(facts: Facts, wishes: Wishes, node: Mapping[str, Any], now: str) -> Patch | None:
    """Return the next change to ``node``, None when it says what it should. ``now`` is the time in RFC 3339."""
    return (
        _status_patch(facts, wishes, node, now)
        or _metadata_patch(facts, wishes, node)
        or _taint_patch(facts, wishes, node)
    )


def settled(wishes: Wishes, node: Mapping[str, Any]) -> bool:
    """Tell whether nothing is left to wait for: a startup taint goes only when the kubelet offers EPC and devices."""
    return not (_ready(node) and _startup_taints(wishes, node))


def events(before: Mapping[str, Any], after: Mapping[str, Any], facts: Facts, wishes: Wishes) -> Iterator[Event]:
    """Yield what a change from ``before`` to ``after`` means to people."""
    marked = " (SIMULATED: nothing is protected by hardware)" if facts.inventory.simulated else ""
    was, now = (SGX_LABEL in _labels(node) for node in (before, after))
    if now and not was:
        yield Event("EPCPublished", f"{amount(facts.inventory.epc_bytes)} of EPC for pods{marked}")
    if was and not now:
        problem = facts.problems[0] if facts.problems else "no reason known"
        yield Event("EPCWithdrawn", f"{problem}: no pod gets EPC here", warning=True)
    told = [_annotations(node).get(AESM_ANNOTATION) for node in (before, after)]
    if told == ["absent", "ready"]:
        yield Event("AESMReady", "the AESM socket answers: quotes can be had")
    if told == ["ready", "absent"]:
        yield Event("AESMAbsent", f"{_aesm_absent()}: no quotes by AESM", warning=True)
    if _startup_taints(wishes, before) and not _startup_taints(wishes, after):
        yield Event("StartupTaintRemoved", f"EPC, devices and what else was waited for work: {wishes.startup_taint}")


def event_object(event: Event, node: Mapping[str, Any], name: str, now: str) -> dict[str, Any]:
    """Return the Event object; ``name`` tells it from all others of the node."""
    metadata = node["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{name}", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata.get("uid")},
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:_MAX_MESSAGE],
        "source": {"component": "kubenclave-node-agent", "host": metadata["name"]},
        "reportingComponent": "kubenclave-node-agent",
        "reportingInstance": metadata["name"],
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def farewell_patch(wishes: Wishes, now: str) -> Patch:
    """Return the last change of an agent that ends: nobody vouches for the Node, and its devices are not to be had.

    EPC stays published, for pods that run have theirs. Without devices the scheduler lets new pods wait; it would send
    them to a kubelet that fails them for good until the kubelet itself tells that the plugin has gone, seconds later.
    The kubelet puts the devices back when the next agent has registered.
    """
    message = "the node agent has ended; what it published stays until it comes back"
    said = {"status": "Unknown", "reason": "AgentStopped", "message": message}
    condition = {"type": NODE_CONDITION, **said, "lastHeartbeatTime": now, "lastTransitionTime": now}
    status = {"conditions": [condition], "allocatable": dict.fromkeys(_devices(wishes), "0")}
    return Patch(status=True, kind=STRATEGIC_PATCH, body={"status": status})


def offers_devices(node: Mapping[str, Any]) -> bool:
    """Tell whether the scheduler may send pods for enclave devices there."""
    return bool(_amount(node, "allocatable", ENCLAVE_RESOURCE))


def lack_of(inventory: Inventory, error: KubenclaveError | None) -> Problem | None:
    """Return what the machine itself lacks for enclaves, None for nothing. ``error`` is why nobody can look at it."""
    if error is not None:
        return Problem("PlatformUnreadable", error.code, error.summary)
    if not inventory.offers(DeviceKind.ENCLAVE):
        return Problem("NoEnclaveDevice", "node.no-enclave-device", "there is no enclave device")
    if not inventory.epc_bytes:
        return Problem("NoEPC", "node.no-epc", "nobody tells the size of the EPC")
    return None


def facts_of(
    inventory: Inventory,
    lack: Problem | None,
    *,
    lasts: bool,
    held: bool | None,
    aesm: bool | None,
    await_aesm: bool,
) -> Facts:
    """Return the facts with what stands in the way.

    ``lack`` is what the machine lacks and ``lasts`` whether it has for a while; ``held`` tells whether the kubelet
    holds the enclave devices, None while it may be between two lives; ``await_aesm`` makes an AESM that does not answer
    a problem.
    """
    problems, usable = [], held
    if lack is not None:
        problems.append(lack)
        usable = False if lasts else None
    elif held is False:
        problems.append(Problem("PluginNotHeld", "node.plugin-not-held", "the kubelet does not take the devices"))
    if await_aesm and not aesm:
        problems.append(_aesm_absent())
    return Facts(inventory, usable, aesm, tuple(problems))


def _devices(wishes: Wishes) -> tuple[str, ...]:
    """Return the resources that a plugin serves."""
    return _DEVICE_RESOURCES if wishes.mode is EpcMode.CAPACITY else (*_DEVICE_RESOURCES, AZURE_EPC_RESOURCE)


def _aesm_absent() -> Problem:
    return Problem("AESMAbsent", "node.aesm-absent", "nobody answers at the AESM socket")


def _status_patch(facts: Facts, wishes: Wishes, node: Mapping[str, Any], now: str) -> Patch | None:
    status: dict[str, Any] = {}
    wanted = _capacity(facts, wishes, node)
    if wanted is not None:
        # Allocatable too: the scheduler goes by it, and the kubelet copies capacity only once in 10 s.
        for field in ("capacity", "allocatable"):
            if _amount(node, field, EPC_RESOURCE) != wanted:
                status[field] = {EPC_RESOURCE: str(wanted)}
    if not facts.inventory.offers(DeviceKind.ENCLAVE):
        # The kubelet knows that they are unhealthy, and tells the scheduler within 10 s.
        offered = [name for name in _devices(wishes) if _amount(node, "allocatable", name)]
        if offered:
            status["allocatable"] = {**status.get("allocatable", {}), **dict.fromkeys(offered, "0")}
    condition = _condition(facts, node, now)
    if condition is not None:
        status["conditions"] = [condition]
    return Patch(status=True, kind=STRATEGIC_PATCH, body={"status": status}) if status else None


def _capacity(facts: Facts, wishes: Wishes, node: Mapping[str, Any]) -> int | None:
    """Return what has to be published, None for no opinion."""
    if wishes.mode is EpcMode.DEVICES:  # one ledger: what another mode left behind must not count beside it
        return 0 if _amount(node, "capacity", EPC_RESOURCE) is not None else None
    return None if facts.usable is None else facts.epc_bytes


def _condition(facts: Facts, node: Mapping[str, Any], now: str) -> dict[str, Any] | None:
    """Return the condition, None where the Node has it already."""
    there = next((one for one in _list(node, "status", "conditions") if one.get("type") == NODE_CONDITION), {})
    if facts.usable is None and there and not facts.problems:
        return None
    if facts.problems:
        status, reason, message = "False", facts.problems[0].reason, "; ".join(str(one) for one in facts.problems)
    elif facts.usable is None:
        status, reason, message = "Unknown", "Starting", "the kubelet has not taken the devices yet"
    else:
        status, reason, message = "True", "EPCPublished", _described(facts)
    wanted = {"status": status, "reason": reason, "message": message[:_MAX_MESSAGE]}
    if all(there.get(key) == value for key, value in wanted.items()):
        return None
    since = there.get("lastTransitionTime", now) if there.get("status") == status else now
    return {"type": NODE_CONDITION, **wanted, "lastHeartbeatTime": now, "lastTransitionTime": since}


def _described(facts: Facts) -> str:
    inventory = facts.inventory
    text = f"{amount(inventory.epc_bytes)} of EPC, driver {inventory.driver.value}"
    if facts.aesm is not None:
        text += f", AESM {'ready' if facts.aesm else 'absent'}"
    return f"SIMULATED, nothing is protected by hardware: {text}" if inventory.simulated else text


def _metadata_patch(facts: Facts, wishes: Wishes, node: Mapping[str, Any]) -> Patch | None:
    labels, annotations = _labels(node), _annotations(node)
    added = set(filter(None, annotations.get(ADDED_ANNOTATION, "").split(",")))
    more: dict[str, str | None] = {AESM_ANNOTATION: _told(facts.aesm)}
    wanted: dict[str, str | None] = {}
    if facts.usable is not None:
        wanted, added = _wanted_labels(facts, wishes, labels, added)
        more |= _wanted_annotations(facts)
        more[ADDED_ANNOTATION] = ",".join(sorted(added)) or None
    changes = {
        name: changed
        for name, there, should in (("labels", labels, wanted), ("annotations", annotations, more))
        if (changed := {key: value for key, value in should.items() if there.get(key) != value})
    }
    return Patch(status=False, kind=MERGE_PATCH, body={"metadata": changes}) if changes else None


def _wanted_labels(
    facts: Facts, wishes: Wishes, labels: Mapping[str, str], added: set[str]
) -> tuple[dict[str, str | None], set[str]]:
    """Return the labels to have (None: not to have), and which foreign ones are ours to take away then."""
    if not facts.usable:
        own = dict.fromkeys((SGX_LABEL, MODE_LABEL, SIMULATED_LABEL))
        return {**own, **dict.fromkeys(name for name in FOREIGN_LABELS if name in added)}, set()
    simulated = "true" if facts.inventory.simulated else None
    own = {SGX_LABEL: "true", MODE_LABEL: wishes.mode.value, SIMULATED_LABEL: simulated}
    ours = {name for name in FOREIGN_LABELS if name in added or labels.get(name) != "true"}
    return {**own, **dict.fromkeys(ours, "true")}, ours


def _wanted_annotations(facts: Facts) -> dict[str, str | None]:
    inventory = facts.inventory
    sizes = {"unknown" if one.numa_node is None else str(one.numa_node): 0 for one in inventory.sections}
    for one in inventory.sections:
        sizes["unknown" if one.numa_node is None else str(one.numa_node)] += one.size
    return {
        NUMA_ANNOTATION: json.dumps(sizes, separators=(",", ":")) if facts.usable else None,
        DRIVER_ANNOTATION: inventory.driver.value,
    }


def _told(aesm: bool | None) -> str | None:
    return {True: "ready", False: "absent", None: None}[aesm]


def _taint_patch(facts: Facts, wishes: Wishes, node: Mapping[str, Any]) -> Patch | None:
    """Return the removal of the startup taint, once the kubelet itself offers what pods need.

    Each removal says which taint it expects at its place: where the list has changed meanwhile nothing is removed.
    """
    places = _startup_taints(wishes, node)
    offered = offers_devices(node) and (wishes.mode is EpcMode.DEVICES or _amount(node, "allocatable", EPC_RESOURCE))
    if not (places and offered and facts.usable and _ready(node)):
        return None
    taints = _list(node, "spec", "taints")
    body = []
    for place in reversed(places):  # from the end, so that the other places stay what they are
        path = f"/spec/taints/{place}"
        body += [{"op": "test", "path": path, "value": taints[place]}, {"op": "remove", "path": path}]
    return Patch(status=False, kind=JSON_PATCH, body=body)


def _startup_taints(wishes: Wishes, node: Mapping[str, Any]) -> list[int]:
    if wishes.startup_taint is None:
        return []
    taints = _list(node, "spec", "taints")
    return [place for place, taint in enumerate(taints) if taint.get("key") == wishes.startup_taint]


def _ready(node: Mapping[str, Any]) -> bool:
    """Tell whether the Node says that EPC, plugin and AESM work."""
    conditions = _list(node, "status", "conditions")
    return any(one.get("type") == NODE_CONDITION and one.get("status") == "True" for one in conditions)


def _amount(node: Mapping[str, Any], field: str, resource: str) -> int | None:
    """Return a resource of the Node, None where it is missing or no whole number."""
    value = _map(node, "status", field).get(resource)
    try:
        return None if value is None else Quantity.parse(value).whole()
    except FormatError:
        return None


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    return _map(node, "metadata", "labels")


def _annotations(node: Mapping[str, Any]) -> Mapping[str, str]:
    return _map(node, "metadata", "annotations")


def _map(node: Mapping[str, Any], part: str, field: str) -> Mapping[str, Any]:
    value: Mapping[str, Any] | None = (node.get(part) or {}).get(field)
    return value or {}


def _list(node: Mapping[str, Any], part: str, field: str) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] | None = (node.get(part) or {}).get(field)
    return value or []
