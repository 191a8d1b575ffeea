# SPDX-License-Identifier: Apache-2.0
"""Whether each SGX node offers EPC and devices together, and says so."""

from collections.abc import Iterator
from typing import Final

from kubenclave.cluster import api as cluster
from kubenclave.cluster.admission.table import TOLERATED
from kubenclave.cluster.api import Object
from kubenclave.cluster.diagnose.model import (
    NODE_AGENT,
    Diagnosis,
    Layer,
    Snapshot,
    State,
    annotations_of,
    labels_of,
    name_of,
    named,
    owned,
)
from kubenclave.cluster.epc import (
    LEDGERS,
    NodeEpc,
    condition,
    containers,
    node_epc,
    pod_epc,
)
from kubenclave.platform.base import AESM_ANNOTATION, FOREIGN_LABELS, NODE_CONDITION, SGX_LABEL
from kubenclave.sgx.epc import amount

SGX_LABELS: Final = (
    "kubenclave.dev/sgx-node",
    SGX_LABEL,
    *FOREIGN_LABELS,
    "feature.node.kubernetes.io/cpu-security.sgx.enabled",
)
STARTUP_TAINTS: Final = "startup-taint.cluster-autoscaler.kubernetes.io/"
TAINT_OPTION: Final = "--startup-taint="


def check_nodes(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look at every node that has, had or should have SGX."""
    marked = [one for one in snapshot.of(cluster.NODES) if is_sgx(one)]
    if not marked:
        step = "label the SGX nodes kubenclave.dev/sgx-node=true; without hardware: simulated.enabled"
        found = f"none of {len(snapshot.of(cluster.NODES))} has a label, taint or resource of SGX"
        yield Diagnosis(Layer.NODES, State.PROBLEM, "nodes", found, "doctor.no-sgx-node", step)
    for node in marked:
        yield from check_node(node, snapshot)


def is_sgx(node: Object) -> bool:
    """Tell whether anything says that a node has SGX."""
    labels = labels_of(node)
    marked = any(labels.get(name) == "true" for name in SGX_LABELS)
    return marked or bool(_taints(node) & {*TOLERATED}) or node_epc(node).is_sgx


def check_node(node: Object, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look at one SGX node; the last finding says what it has when nothing is wrong."""
    epc = node_epc(node)
    problems = [*_agent(node, snapshot), *_resources(node, epc), *_taint(node, epc, snapshot)]
    if annotations_of(node).get(AESM_ANNOTATION) == "absent":
        step = "see the quote helper's pod there; pods without it still run, but get no quote from AESM"
        problems.append(_about(node, State.WARNING, "AESM does not answer", "doctor.node-without-aesm", step))
    yield from problems
    if not any(one.state is State.PROBLEM for one in problems):
        taken = sum(pod.epc for pod in map(pod_epc, snapshot.of(cluster.PODS)) if pod and pod.node == epc.name)
        text = f"{amount(epc.allocatable)} of EPC" + (", SIMULATED" if epc.simulated else "")
        if snapshot.can_tell(cluster.PODS):
            text += f", {amount(max(epc.allocatable - taken, 0))} free"
        yield _about(node, State.OK, text)


def _agent(node: Object, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look at who speaks for the node: kubelet, node agent, and what the agent says."""
    if condition(node, "Ready").get("status") != "True":
        step = f"kubectl describe node {name_of(node)}; what its agent said last may be out of date"
        yield _about(node, State.PROBLEM, "the node is not ready", "doctor.node-down", step)
        return
    told = condition(node, NODE_CONDITION)
    if told and told.get("status") != "True":
        found = f"{told.get('reason', 'not ready')}: {told.get('message', '')}"
        step = "on that node: kubenclave doctor node tells which layer is missing"
        yield _about(node, State.PROBLEM, found, "doctor.node-not-ready", step)
    if not snapshot.can_tell(cluster.PODS):
        return
    running = list(owned(snapshot.of(cluster.PODS), NODE_AGENT, name_of(node)))
    if not running:
        step = "see nodeAgent.nodeSelector, nodeAgent.affinity and nodeAgent.tolerations of the chart"
        yield _about(node, State.PROBLEM, "no node agent runs here", "doctor.node-without-agent", step)
    elif not told:
        step = f"kubectl logs the pod {name_of(running[0])}: it should have set the condition {NODE_CONDITION}"
        yield _about(node, State.PROBLEM, "its node agent says nothing", "doctor.node-silent", step)


def _resources(node: Object, epc: NodeEpc) -> Iterator[Diagnosis]:
    """EPC and devices are of use together only, and under one name."""
    if epc.allocatable and not epc.enclaves and LEDGERS[0] in epc.ledgers:
        step = "the device plugin is not registered: see the node agent's log there"
        found = f"{amount(epc.allocatable)} of EPC, but no enclave device"
        yield _about(node, State.PROBLEM, found, "doctor.epc-without-devices", step)
    if epc.enclaves and not epc.allocatable:
        step = "the node agent publishes EPC; another plugin does not: see who registered the devices"
        found = f"{epc.enclaves} enclave devices, but no EPC"
        yield _about(node, State.PROBLEM, found, "doctor.devices-without-epc", step)
    if len(epc.ledgers) > 1:
        step = "remove the other plugin: the same EPC is promised twice; a stale name goes with the Node object"
        found = f"EPC is counted under {' and '.join(epc.ledgers)}"
        yield _about(node, State.PROBLEM, found, "doctor.two-ledgers", step)
    if epc.allocatable or epc.enclaves:
        return
    step = "on that node: kubenclave doctor node tells which layer is missing"
    if labels := [name for name in SGX_LABELS if labels_of(node).get(name) == "true"]:
        found = f"labelled {labels[0]}, but has no EPC"
        yield _about(node, State.PROBLEM, found, "doctor.label-without-epc", step)
    elif taints := sorted(_taints(node) & {*TOLERATED}):
        found = f"tainted {taints[0]}, but has no EPC"
        yield _about(node, State.PROBLEM, found, "doctor.taint-without-epc", step)


def _taint(node: Object, epc: NodeEpc, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look for a startup taint: it keeps pods off until all works, and should then go."""
    awaited = _awaited(snapshot)
    for key in sorted(_taints(node)):
        if key not in awaited and not key.startswith(STARTUP_TAINTS):
            continue
        if epc.ready and epc.allocatable:
            step = "the agent takes it away once AESM answers too, and only the key that startupTaint.key names"
            yield _about(node, State.PROBLEM, f"still has the taint {key}", "doctor.startup-taint", step)
        else:
            step = "it goes by itself once the node works"
            yield _about(node, State.WARNING, f"still has the taint {key}", "doctor.startup-taint", step)


def _awaited(snapshot: Snapshot) -> set[str]:
    """Return the startup taints that node agents were told to take away."""
    return {
        str(argument).removeprefix(TAINT_OPTION)
        for agent in named(snapshot.of(cluster.DAEMON_SETS), NODE_AGENT)
        for container in containers((agent.get("spec") or {}).get("template") or {})
        for argument in container.get("args") or ()
        if str(argument).startswith(TAINT_OPTION)
    }


def _taints(node: Object) -> set[str]:
    return {str(taint.get("key", "")) for taint in (node.get("spec") or {}).get("taints") or ()}


def _about(node: Object, state: State, found: str, code: str = "", step: str = "") -> Diagnosis:
    return Diagnosis(Layer.NODES, state, f"node {name_of(node)}", found, code, step)
