# SPDX-License-Identifier: Apache-2.0
"""Why no node is right for a pod: what it asked for, what is free, and what stands in the way on each node.

Judges what concerns SGX, and what is cheap to judge; the scheduler's own message stands beside it for the rest.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubenclave.cluster import api as cluster
from kubenclave.cluster.api import Object
from kubenclave.cluster.diagnose.model import Diagnosis, Layer, Snapshot, State, labels_of
from kubenclave.cluster.epc import NodeEpc, asked, condition, node_epc, pod_epc
from kubenclave.sgx.epc import ENCLAVE_RESOURCE, amount


@dataclass(frozen=True, slots=True)
class Fit:
    """One node as a place for one pod: ``free`` bytes of EPC, and why not (empty: nothing that we know of)."""

    node: str
    free: int
    allocatable: int
    obstacles: tuple[str, ...]


def check_scheduling(pod: Object, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Say why a pod has no node yet; nothing about one that has."""
    spec, wanted = pod.get("spec") or {}, pod_epc(pod)
    if spec.get("nodeName") or wanted is None:
        return
    subject = f"pod {wanted.namespace}/{wanted.name}"
    if gates := [str(one.get("name", "")) for one in spec.get("schedulingGates") or ()]:
        step = "whoever set the gate has to lift it; the scheduler does not look at the pod before"
        found = f"held back by {', '.join(gates)}"
        yield Diagnosis(Layer.SCHEDULING, State.PROBLEM, subject, found, "doctor.gated", step)
        return
    told = str(condition(pod, "PodScheduled").get("message") or "")
    if not snapshot.can_tell(cluster.NODES, cluster.PODS):
        step = "let somebody look who may list nodes and pods"
        found = f"has no node yet; the scheduler says: {told or 'nothing'}"
        yield Diagnosis(Layer.SCHEDULING, State.PROBLEM, subject, found, "doctor.not-scheduled", step)
        return
    fits = fits_of(pod, snapshot)
    for fit in fits:
        if fit.allocatable:
            found = f"{amount(fit.free)} of {amount(fit.allocatable)} free"
            found += f"; {', '.join(fit.obstacles)}" if fit.obstacles else "; would do"
            state = State.WARNING if fit.obstacles else State.OK
            code = "doctor.node-unfit" if fit.obstacles else ""
            yield Diagnosis(Layer.SCHEDULING, state, f"node {fit.node}", found, code)
    if told:
        said = told.partition(" preemption:")[0]
        yield Diagnosis(Layer.SCHEDULING, State.WARNING, "scheduler", said, "doctor.scheduler")
    yield _verdict(subject, wanted.epc, fits)


def fits_of(pod: Object, snapshot: Snapshot) -> list[Fit]:
    """Judge every node; those with most free EPC first."""
    taken: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for other in snapshot.of(cluster.PODS):
        promised = pod_epc(other)
        if promised is not None and promised.node is not None:
            taken[promised.node] += promised.epc
            devices[promised.node] += asked(other, ENCLAVE_RESOURCE)
    fits = []
    for node in snapshot.of(cluster.NODES):
        epc = node_epc(node)
        free = max(epc.allocatable - taken[epc.name], 0)
        obstacles = tuple(_obstacles(pod, node, epc, free, devices[epc.name]))
        fits.append(Fit(epc.name, free, epc.allocatable, obstacles))
    return sorted(fits, key=lambda fit: (-fit.free, fit.node))


def _verdict(subject: str, epc: int, fits: list[Fit]) -> Diagnosis:
    """Sum the nodes up: what was asked for, the most that is there or free, and the next step."""
    size = max((fit.allocatable for fit in fits), default=0)
    free = max((fit.free for fit in fits), default=0)
    rows = (
        (not size, "no node has any", "doctor.no-epc", "kubenclave doctor cluster says what the nodes lack"),
        (
            epc > size,
            f"the largest node has {amount(size)}",
            "doctor.larger-than-any-node",
            "ask for less, or add a node with more EPC: waiting will not help",
        ),
        (
            epc > free,
            f"the most that is free on one node is {amount(free)}",
            "doctor.epc-short",
            "wait for pods to end, delete some, or add a node",
        ),
        (
            not any(fit.allocatable and not fit.obstacles for fit in fits),
            "there is enough EPC, but not on a node that it may use",
            "doctor.no-node-fits",
            "take away what the lines above name: taint, selector or devices",
        ),
    )
    for applies, found, code, step in rows:
        if applies:
            text = f"asks {amount(epc)} of EPC, {found}"
            return Diagnosis(Layer.SCHEDULING, State.PROBLEM, subject, text, code, step)
    step = "wait a moment; if the scheduler goes on refusing, its message names what else is short"
    text = f"asks {amount(epc)} of EPC, which is there"
    return Diagnosis(Layer.SCHEDULING, State.WARNING, subject, text, "doctor.not-scheduled", step)


def _obstacles(pod: Object, node: Object, epc: NodeEpc, free: int, devices_taken: int) -> Iterator[str]:
    spec, wanted = pod.get("spec") or {}, pod_epc(pod)
    if wanted is not None and wanted.epc > free:
        yield "too little EPC free"
    enclaves = asked(pod, ENCLAVE_RESOURCE)
    if enclaves > epc.enclaves - devices_taken:
        yield "no enclave device free"
    if (node.get("spec") or {}).get("unschedulable"):
        yield "cordoned"
    if condition(node, "Ready").get("status") != "True":
        yield "not ready"
    for taint in (node.get("spec") or {}).get("taints") or ():
        if taint.get("effect") != "PreferNoSchedule" and not tolerates(spec.get("tolerations") or (), taint):
            yield f"taint {taint.get('key')} not tolerated"
    labels = labels_of(node)
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            yield f"not {key}={value}"


def tolerates(tolerations: object, taint: Mapping[str, Any]) -> bool:
    """Tell whether one of a pod's tolerations matches a taint, as the scheduler does."""
    for one in tolerations if isinstance(tolerations, list | tuple) else ():
        if one.get("effect") and one["effect"] != taint.get("effect"):
            continue
        if one.get("operator") == "Exists" and not one.get("key"):
            return True
        if one.get("key") == taint.get("key") and (
            one.get("operator") == "Exists" or (one.get("value") or "") == (taint.get("value") or "")
        ):
            return True
    return False
