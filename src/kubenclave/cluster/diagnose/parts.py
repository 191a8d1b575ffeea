# SPDX-License-Identifier: Apache-2.0
"""Whether the API server is one we support, and the parts of the add-on are there and ready."""

from collections.abc import Iterator
from typing import Final

from kubenclave.cluster import api as cluster
from kubenclave.cluster.api import Object
from kubenclave.cluster.diagnose.model import (
    NODE_AGENT,
    QUOTE_HELPER,
    Diagnosis,
    Layer,
    Snapshot,
    State,
    name_of,
    named,
    namespace_of,
)

OLDEST: Final = (1, 30)
"""The first Kubernetes with ValidatingAdmissionPolicy, and with the node's name in a service account's token."""
POLICIES_SINCE: Final = (1, 36)
"""The first with MutatingAdmissionPolicy, without which a webhook does its part."""

_DAEMON_SETS: Final = (NODE_AGENT, QUOTE_HELPER, "kubenclave-simulator")
_DEPLOYMENTS: Final = ("kubenclave-webhook", "kubenclave-exporter", "kubenclave-issuer")
FOREIGN: Final = frozenset({"intel-sgx-plugin", "sgx-plugin", "sgx-device-plugin", "intel-sgx-epchook"})
"""Last part of the image names of other plugins, which register the same resources or write the same capacity."""


def check_version(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Say which Kubernetes it is."""
    text = f"Kubernetes {snapshot.version[0]}.{snapshot.version[1]}"
    if snapshot.version < OLDEST:
        step = f"upgrade to {OLDEST[0]}.{OLDEST[1]} or later: older ones cannot check what the add-on relies on"
        yield Diagnosis(Layer.API, State.PROBLEM, "server", text, "doctor.version", step)
    else:
        yield Diagnosis(Layer.API, State.OK, "server", text)


def check_denied(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Say what could not be read, so that nobody takes silence for health."""
    for kind, why in snapshot.denied.items():
        step = f"kubectl auth can-i list {kind.plural} -A; what depends on it was not examined"
        yield Diagnosis(Layer.API, State.UNKNOWN, kind.plural, why, "doctor.permission", step)


def check_daemon_sets(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look for what runs on the nodes."""
    found = snapshot.of(cluster.DAEMON_SETS)
    agents = named(found, NODE_AGENT)
    if not agents:
        step = "helm install kubenclave charts/kubenclave --namespace kubenclave --create-namespace"
        yield Diagnosis(Layer.ADD_ON, State.PROBLEM, NODE_AGENT, "not installed", "doctor.not-installed", step)
    elif len(agents) > 1:
        where = ", ".join(sorted(namespace_of(one) for one in agents))
        step = "uninstall all but one: they register the same resources"
        yield Diagnosis(
            Layer.ADD_ON, State.PROBLEM, NODE_AGENT, f"installed in {where}", "doctor.installed-twice", step
        )
    if agents and not named(found, QUOTE_HELPER):
        step = "set quoteHelper.enabled, unless pods make their quotes in their own process"
        yield Diagnosis(Layer.ADD_ON, State.WARNING, QUOTE_HELPER, "not installed", "doctor.no-quote-helper", step)
    for name in _DAEMON_SETS:
        for one in named(found, name):
            status = one.get("status") or {}
            yield _readiness("DaemonSet", one, status.get("numberReady"), status.get("desiredNumberScheduled"))


def check_deployments(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look for what runs once in the cluster; which of it there is, depends on how it was installed."""
    for name in _DEPLOYMENTS:
        for one in named(snapshot.of(cluster.DEPLOYMENTS), name):
            wanted = (one.get("spec") or {}).get("replicas", 1)
            yield _readiness("Deployment", one, (one.get("status") or {}).get("readyReplicas"), wanted)


def check_foreign(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look for other plugins: of two that register one name, the later wins, whichever that is."""
    for one in snapshot.of(cluster.DAEMON_SETS):
        pod = ((one.get("spec") or {}).get("template") or {}).get("spec") or {}
        images = [str(each.get("image", "")) for key in ("initContainers", "containers") for each in pod.get(key) or ()]
        for image in images:
            plain = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
            if plain in FOREIGN and (one.get("status") or {}).get("desiredNumberScheduled"):
                subject = f"DaemonSet {namespace_of(one)}/{name_of(one)}"
                step = "remove it, or keep it off our nodes (docs/migrate.md): both write the same resource names"
                yield Diagnosis(Layer.ADD_ON, State.WARNING, subject, f"runs {image}", "doctor.foreign-plugin", step)


def _readiness(kind: str, found: Object, ready: int | None, wanted: int | None) -> Diagnosis:
    subject = f"{kind} {namespace_of(found)}/{name_of(found)}"
    ready, wanted = ready or 0, wanted or 0
    text = f"{ready} of {wanted} ready"
    if ready < wanted:
        step = f"kubectl -n {namespace_of(found)} describe {kind.lower()} {name_of(found)}, and the log of its pods"
        return Diagnosis(Layer.ADD_ON, State.PROBLEM, subject, text, "doctor.part-not-ready", step)
    if kind == "DaemonSet" and not wanted:
        step = "no node is selected: label the SGX nodes, or see nodeAgent.nodeSelector and nodeAgent.affinity"
        return Diagnosis(Layer.ADD_ON, State.PROBLEM, subject, "runs on no node", "doctor.part-nowhere", step)
    return Diagnosis(Layer.ADD_ON, State.OK, subject, text)
