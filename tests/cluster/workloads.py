# SPDX-License-Identifier: Apache-2.0
"""Pods of people who know nothing of the add-on's insides: no privilege, no volume, just an amount of EPC."""

import json
from typing import Any

from tests.cluster.harness.cluster import Cluster
from tests.cluster.release import TEST_IMAGE

RESTRICTED = "restricted"
"""A namespace in which Pod Security lets nothing privileged in, hostPath volumes least of all."""


def restricted(cluster: Cluster) -> None:
    """Make the namespace RESTRICTED."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RESTRICTED, "labels": labels}})


def confidential(name: str, limits: dict[str, str], *command: str, quotes: bool = True) -> dict[str, Any]:
    """A pod of our image in RESTRICTED that asks for ``limits`` and, with the annotation, for quotes."""
    container = {
        "name": "main",
        "image": f"{TEST_IMAGE['repository']}:{TEST_IMAGE['tag']}",
        "imagePullPolicy": "Never",
        "command": list(command) or ["sleep", "100000"],
        "env": [{"name": "XDG_CONFIG_HOME", "value": "/tmp"}],  # where the enclave's signing key is made
        "resources": {"limits": limits},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "containers": [container],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    annotations = {"sgx.intel.com/quote-provider": "aesmd"} if quotes else {}
    metadata = {"name": name, "namespace": RESTRICTED, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def quote(cluster: Cluster, pod: str, data: str = "00ff", namespace: str = RESTRICTED) -> bytes:
    """Have an enclave in a pod quoted over AESM."""
    told = cluster.exec(
        pod, "kubenclave", "sim", "run", "--", "kubenclave", "quote", "get", "--report-data", data, "--output", "json",
        namespace=namespace,
    )  # fmt: skip
    return bytes.fromhex(json.loads(told)["quote"])
