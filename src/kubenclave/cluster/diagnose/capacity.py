# SPDX-License-Identifier: Apache-2.0
"""Whether the promises add up: no node over-committed, no pod half-equipped, nobody waiting unseen."""

from collections import Counter
from collections.abc import Iterator

from kubenclave.cluster import api as cluster
from kubenclave.cluster.admission.table import DIALECTS
from kubenclave.cluster.api import Object
from kubenclave.cluster.diagnose.model import Diagnosis, Layer, Snapshot, State
from kubenclave.cluster.epc import amount_of, containers, node_epc, pod_epc, resources_of
from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, EPC_RESOURCE, amount


def check_commitments(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Compare what the pods of each node were promised with what it has."""
    taken: Counter[str] = Counter()
    waiting = []
    for pod in map(pod_epc, snapshot.of(cluster.PODS)):
        if pod is not None and pod.node is not None:
            taken[pod.node] += pod.epc
        elif pod is not None:
            waiting.append(pod)
    nodes = [node_epc(node) for node in snapshot.of(cluster.NODES)]
    for node in nodes:
        if taken[node.name] > node.capacity > 0:
            found = f"{amount(taken[node.name])} promised, {amount(node.capacity)} there"
            step = "delete pods from it; then see who lets pods past the scheduler (spec.nodeName) or counts twice"
            yield _about(State.PROBLEM, f"node {node.name}", found, "doctor.over-commit", step)
        elif taken[node.name] and not node.capacity:
            found = f"pods hold {amount(taken[node.name])} of EPC that was withdrawn"
            step = "their enclaves may be lost: repair the node, or drain it"
            yield _about(State.WARNING, f"node {node.name}", found, "doctor.withdrawn", step)
    for pod in waiting:
        step = f"kubenclave doctor pod {pod.name} -n {pod.namespace}"
        found = f"waits for a node with {amount(pod.epc)} of EPC"
        yield _about(State.WARNING, f"pod {pod.namespace}/{pod.name}", found, "doctor.pod-waits", step)
    total = sum(node.allocatable for node in nodes)
    text = (
        f"{amount(total)} of EPC on {sum(bool(one.allocatable) for one in nodes)} nodes, {amount(taken.total())} taken"
    )
    yield _about(State.OK, "EPC", text)


def check_equipment(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look for pods that have a node and EPC, but no enclave device or a name that nobody translated."""
    ledger = ledger_of(snapshot)
    for pod in snapshot.of(cluster.PODS):
        wanted = pod_epc(pod)
        if wanted is None or wanted.node is None:
            continue
        lacking = half_equipped(pod, ledger)
        if lacking:
            step = "delete it and let its controller make it anew, once admission is in order"
            subject = f"pod {wanted.namespace}/{wanted.name}"
            found = f"runs without an enclave device: {', '.join(lacking)}"
            yield _about(State.PROBLEM, subject, found, "doctor.half-equipped", step)


def ledger_of(snapshot: Snapshot) -> str:
    """Return the name under which this cluster counts EPC: by the MiB only where no node counts bytes."""
    counted = {name for node in snapshot.of(cluster.NODES) for name in node_epc(node).ledgers}
    return AZURE_EPC_RESOURCE if counted == {AZURE_EPC_RESOURCE} else EPC_RESOURCE


def half_equipped(pod: Object, ledger: str = EPC_RESOURCE) -> list[str]:
    """Return the containers that ask for EPC by any name, but for nothing that brings an enclave device."""
    names = {dialect.resource for dialect in DIALECTS}
    bringing = {ENCLAVE_RESOURCE} if ledger == EPC_RESOURCE else {ENCLAVE_RESOURCE, ledger}
    return [
        str(container.get("name", ""))
        for container in containers(pod)
        if names & {*resources_of(container)}
        and not any(amount_of(resources_of(container).get(name, 0)) for name in bringing)
    ]


def untranslated(pod: Object, ledger: str = EPC_RESOURCE) -> list[str]:
    """Return the names for EPC in a pod that are not the one which the cluster counts."""
    names = {dialect.resource for dialect in DIALECTS} - {ledger}
    return sorted({name for container in containers(pod) for name in names & {*resources_of(container)}})


def _about(state: State, subject: str, found: str, code: str = "", step: str = "") -> Diagnosis:
    return Diagnosis(Layer.CAPACITY, state, subject, found, code, step)
