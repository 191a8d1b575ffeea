# SPDX-License-Identifier: Apache-2.0
"""One pod, from what it asks for to the quote: what it lacks, and on whose side."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from kubenclave.cluster import api as cluster
from kubenclave.cluster.admission.table import AESM_VARIABLE, AESMD, QUOTE_PROVIDER
from kubenclave.cluster.api import Object
from kubenclave.cluster.diagnose.capacity import half_equipped, ledger_of, untranslated
from kubenclave.cluster.diagnose.model import (
    QUOTE_HELPER,
    Diagnosis,
    Layer,
    Snapshot,
    State,
    annotations_of,
    labels_of,
    name_of,
    named,
    namespace_of,
    owned,
)
from kubenclave.cluster.diagnose.nodes import check_node
from kubenclave.cluster.diagnose.scheduling import check_scheduling
from kubenclave.cluster.epc import UNITS, amount_of, containers, pod_epc, resources_of
from kubenclave.platform.base import AESM_ANNOTATION
from kubenclave.sgx.epc import ENCLAVE_RESOURCE, amount

PART_OF: Final = "app.kubernetes.io/part-of"

_REFUSED: Final = ("UnexpectedAdmissionError", "OutOf", "TopologyAffinityError", "Admission")
_SAID: Final = 300
"""Characters of somebody else's message that are quoted."""


def asks(pod: Object) -> bool:
    """Tell whether a pod asks for EPC by any name, also one that has ended."""
    return any(amount_of(resources_of(one).get(name, 0)) for one in containers(pod) for name in UNITS)


def check_request(pod: Object, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look at what the pod asks for, and what admission made of it."""
    subject = _title(pod)
    if not asks(pod):
        step = "ask for sgx.intel.com/epc in the limits of a container, as in 64Mi"
        yield Diagnosis(Layer.REQUEST, State.PROBLEM, subject, "asks for no EPC", "doctor.asks-nothing", step)
        return
    ledger = ledger_of(snapshot)
    foreign = untranslated(pod, ledger)
    if foreign:
        step = f"it met no admission of ours: see kubenclave doctor cluster, then make it anew; or ask for {ledger}"
        found = f"still asks for {', '.join(foreign)}, which no node counts"
        yield Diagnosis(Layer.REQUEST, State.PROBLEM, subject, found, "doctor.untranslated", step)
    if lacking := half_equipped(pod, ledger):
        step = f"it met no admission of ours: make it anew, or ask for {ENCLAVE_RESOURCE}: 1 beside the EPC"
        found = f"EPC without an enclave device: {', '.join(lacking)}"
        yield Diagnosis(Layer.REQUEST, State.PROBLEM, subject, found, "doctor.half-equipped", step)
    if not foreign and not lacking:
        wanted = pod_epc(pod)
        text = "has ended" if wanted is None else f"asks {amount(wanted.epc)} of EPC, with enclave device"
        yield Diagnosis(Layer.REQUEST, State.OK, subject, text)


def check_place(pod: Object, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look for a node, or at the node that it has."""
    node = str((pod.get("spec") or {}).get("nodeName") or "")
    if not node:
        yield from check_scheduling(pod, snapshot)
        return
    for found in named(snapshot.of(cluster.NODES), node):
        yield from check_node(found, snapshot)


def check_start(pod: Object, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look at what kubelet and runtime made of it."""
    status, subject = pod.get("status") or {}, _title(pod)
    reason = str(status.get("reason") or "")
    if reason.startswith(_REFUSED):
        found = f"the kubelet refused it: {reason}: {_said(status.get('message'))}"
        step = "delete it; its controller makes another. It happens when a node starts before its device plugin is back"
        yield Diagnosis(Layer.START, State.PROBLEM, subject, found, "doctor.kubelet-refused", step)
    for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        yield from _container_state(subject, one)
    told = {str(event.get("reason", "")): event for event in snapshot.of(cluster.EVENTS) if _is_of(event, pod)}
    for why, event in told.items():
        if event.get("type") == "Warning" and why != "FailedScheduling" and status.get("phase") != "Running":
            found = f"{why}: {_said(event.get('message'))}"
            step = "it is the cluster's own word; events fade after an hour"
            yield Diagnosis(Layer.START, State.WARNING, subject, found, "doctor.event", step)
    if status.get("phase") == "Running":
        yield Diagnosis(Layer.START, State.OK, subject, "runs")


def check_own(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Say why pods of the add-on itself do not run."""
    for pod in snapshot.of(cluster.PODS):
        if labels_of(pod).get(PART_OF) == "kubenclave":
            for found in check_start(pod, snapshot):
                if found.state is State.PROBLEM:
                    yield replace(found, layer=Layer.ADD_ON)


def check_quotes(pod: Object, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look at how the pod comes to a quote out of its own process: variable, socket, helper on its node."""
    subject, node = _title(pod), str((pod.get("spec") or {}).get("nodeName") or "")
    provider = annotations_of(pod).get(QUOTE_PROVIDER)
    told = [one for one in containers(pod) if any(each.get("name") == AESM_VARIABLE for each in one.get("env") or ())]
    if provider is None and not told:
        step = f"annotate the pod {QUOTE_PROVIDER}: {AESMD}, unless its enclaves make their quotes in their own process"
        yield Diagnosis(Layer.QUOTES, State.OK, subject, "does not ask for quotes over AESM", "", step)
        return
    if provider == AESMD and not told:
        step = "the annotation has to be there when the pod is created, and our admission in order: make it anew"
        found = f"annotated {QUOTE_PROVIDER}, but no container has {AESM_VARIABLE}"
        yield Diagnosis(Layer.QUOTES, State.PROBLEM, subject, found, "doctor.no-aesm-variable", step)
    if not node:
        return
    yield from _helper(node, snapshot)


def missing_pod(namespace: str, name: str, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Say why a pod that does not exist may never have been made: what its controller was told."""
    subject, refused = f"pod {namespace}/{name}", False
    for event in snapshot.of(cluster.EVENTS):
        holder = str((event.get("involvedObject") or {}).get("name", ""))
        related = holder and (name.startswith(holder) or holder.startswith(name))
        if related and event.get("reason") == "FailedCreate":
            refused = True
            kind = (event.get("involvedObject") or {}).get("kind", "controller")
            found = f"{kind} {holder} could not make it: {_said(event.get('message'))}"
            step = "change the pod template as the message says; for a quota see kubectl describe quota"
            yield Diagnosis(Layer.REQUEST, State.PROBLEM, subject, found, "doctor.not-created", step)
    if not refused:
        step = f"kubectl -n {namespace} get pods; and the events of its controller"
        yield Diagnosis(Layer.REQUEST, State.PROBLEM, subject, "does not exist", "doctor.no-such-pod", step)


def check_quota(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Say which quotas on EPC are used up: the next pod of this namespace would not be made."""
    for quota in snapshot.of(cluster.RESOURCE_QUOTAS):
        hard, used = ((quota.get("status") or {}).get(key) or {} for key in ("hard", "used"))
        for resource in UNITS:
            key = f"requests.{resource}"
            limit = hard.get(key)
            if limit is not None and amount_of(used.get(key, 0)) >= amount_of(limit):
                found = f"{resource}: all of {limit} used; another pod with EPC would not be created here"
                step = "raise the quota, or delete pods of this namespace"
                subject = f"quota {namespace_of(quota)}/{name_of(quota)}"
                yield Diagnosis(Layer.REQUEST, State.WARNING, subject, found, "doctor.quota-used-up", step)


def _helper(node: str, snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look at who serves AESM on the pod's node."""
    subject = f"node {node}"
    said = [annotations_of(one).get(AESM_ANNOTATION) for one in named(snapshot.of(cluster.NODES), node)]
    if snapshot.can_tell(cluster.PODS):
        pods = list(owned(snapshot.of(cluster.PODS), QUOTE_HELPER, node))
        ready = any(
            one.get("type") == "Ready" and one.get("status") == "True"
            for pod in pods
            for one in (pod.get("status") or {}).get("conditions") or ()
        )
        if not pods and said != ["ready"]:
            step = "set quoteHelper.enabled, or run Intel's aesmd on the node"
            found = "no quote helper runs here"
            yield Diagnosis(Layer.QUOTES, State.PROBLEM, subject, found, "doctor.helper-missing", step)
            return
        if pods and not ready:
            where = f"-n {namespace_of(pods[0])} logs {name_of(pods[0])}"
            found = "the quote helper is not ready"
            step = f"kubectl {where}"
            yield Diagnosis(Layer.QUOTES, State.PROBLEM, subject, found, "doctor.helper-not-ready", step)
            return
    yield Diagnosis(Layer.QUOTES, State.OK, subject, "a quote helper serves AESM here")


def _container_state(subject: str, status: dict[str, Any]) -> Iterator[Diagnosis]:
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if reason and reason not in {"ContainerCreating", "PodInitializing"}:
        ended = (status.get("lastState") or {}).get("terminated") or {}
        last = f"; it ended with exit code {ended.get('exitCode')}" if ended else ""
        found = f"container {status.get('name')}: {reason}: {_said(waiting.get('message'))}{last}"
        step = "see its log (kubectl logs --previous); exit codes of enclaves are the application's"
        yield Diagnosis(Layer.START, State.PROBLEM, subject, found, "doctor.container-waits", step)


def _is_of(event: Object, pod: Object) -> bool:
    involved = event.get("involvedObject") or {}
    uid = (pod.get("metadata") or {}).get("uid")
    return involved.get("kind") == "Pod" and involved.get("uid", uid) == uid and involved.get("name") == name_of(pod)


def _said(message: object) -> str:
    text = " ".join(str(message or "no message").split())
    return text if len(text) <= _SAID else text[:_SAID] + "..."


def _title(pod: Object) -> str:
    return f"pod {namespace_of(pod) or 'default'}/{name_of(pod)}"
