# SPDX-License-Identifier: Apache-2.0
"""Take a cluster back to how it started after a test that failed, so that the next ones are not its heirs.

Tests that pass clean up after themselves; nothing here hides what an uninstall forgets.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.parts import HarnessError

# They act on what is deleted below, so they go first.
_ADMISSION: Final = (
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "validatingadmissionpolicybindings",
    "validatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
)
_WORKLOADS: Final = (
    "deployments,daemonsets,statefulsets,replicasets,jobs,cronjobs,horizontalpodautoscalers,configmaps,secrets,"
    "resourcequotas,limitranges,networkpolicies"
)
_SYSTEM: Final = {"default", "kube-system", "kube-public", "kube-node-lease"}


def tidy(cluster: Cluster, nodes_before: dict[str, dict[str, Any]]) -> None:
    """Start what was stopped, uninstall every release, delete what tests make, give nodes back their labels.

    ``nodes_before`` are the Node objects by name as they were at first.
    """
    cluster.start_apiserver()
    for node in cluster.nodes.values():
        node.start_containerd()
        node.start_kubelet()
        node.remove_sgx_devices()
    with contextlib.suppress(HarnessError):
        for release in json.loads(cluster.helm("list", "--all-namespaces", "--output", "json")):
            cluster.helm("uninstall", release["name"], "-n", release["namespace"], "--no-hooks")
    for kind in _ADMISSION:
        with contextlib.suppress(HarnessError):  # not every server has every kind
            cluster.kubectl("delete", kind, "--all")
    namespaces = {item["metadata"]["name"] for item in cluster.items("namespaces", "")} - _SYSTEM
    cluster.kubectl("delete", _WORKLOADS, "--all", "-n", "default")
    cluster.kubectl("delete", "services", "-n", "default", "--field-selector", "metadata.name!=kubernetes")
    for namespace in ["default", *namespaces]:
        cluster.kubectl("delete", "pods", "--all", "-n", namespace, "--grace-period=0", "--force")
    if namespaces:
        cluster.kubectl("delete", "namespaces", *namespaces, timeout=120)
    for name, before in nodes_before.items():
        _restore(cluster, name, before)
    cluster.wait_nodes()


def _restore(cluster: Cluster, name: str, before: dict[str, Any]) -> None:
    """Take away the labels, annotations, taints and resources that a node did not have before."""
    now = cluster.get("node", name)
    added = {
        field: {key: None for key in now["metadata"].get(field, {}) if key not in before["metadata"].get(field, {})}
        for field in ("labels", "annotations")
    }
    patch = {"metadata": added, "spec": {"taints": None, "unschedulable": None}}
    cluster.kubectl("patch", "node", name, "--type=merge", "-p", json.dumps(patch))
    capacity = {key: None for key in now["status"]["capacity"] if key not in before["status"]["capacity"]}
    status = {"status": {"capacity": capacity, "allocatable": capacity}}
    cluster.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
