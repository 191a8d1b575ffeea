# SPDX-License-Identifier: Apache-2.0
"""The Helm chart as the objects that it renders to."""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tools.kubernetes.build import TOOLS, go_version, place

CHART = Path(__file__).parents[1] / "charts/kubenclave"
NAMESPACE = "kubenclave"

Object = dict[str, Any]
"""One Kubernetes object, or a part of one."""

# Each is a way in which sites differ: together they walk every branch of every template.
VARIATIONS: dict[str, Object] = {
    "policies": {"admission": {"mode": "policies"}},
    "webhook": {"admission": {"mode": "webhook"}},
    "simulated": {
        "admission": {"mode": "policies"},
        "simulated": {"enabled": True},
        "attestation": {"enabled": True, "open": True, "persistence": {"enabled": False}},
    },
    "devices": {"admission": {"mode": "policies", "enclaveWithoutEpc": "warn"}, "epcMode": "devices"},
    "least": {
        "admission": {"mode": "webhook"},
        "quoteHelper": {"enabled": False},
        "exporter": {"enabled": False},
        "networkPolicy": {"enabled": False},
    },
    "most": {
        "admission": {"mode": "webhook"},
        "image": {"repository": "registry.example/sgx/kubenclave", "digest": f"sha256:{'a' * 64}"},
        "imagePullSecrets": [{"name": "registry"}],
        "provision": {"allowed": [{"namespace": "attestation", "serviceAccounts": ["quotes", "registration"]}]},
        "priorityClass": {
            "create": True,
            "node": {"name": "kubenclave-node", "value": 1000},
            "cluster": {"name": "kubenclave-cluster", "value": 900},
            "quoteHelper": "kubenclave-node",
        },
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "webhookFrom": [{"ipBlock": {"cidr": "10.0.0.0/28"}}],
        },
        "nodeAgent": {"nodeSelector": {"pool": "sgx"}, "podAnnotations": {"team": "a"}, "podLabels": {"team": "a"}},
        "simulated": {"enabled": True, "nodeSelector": {"pool": "sgx"}},
        "dashboards": {"enabled": True},
        "attestation": {"enabled": True, "clientsFrom": [{"podSelector": {}}], "persistence": {"storageClass": "fast"}},
        "collateral": {"enabled": True, "persistence": {"existingClaim": "collateral"}},
    },
    "services": {
        "admission": {"mode": "policies"},
        "attestation": {
            "enabled": True,
            "issuer": "https://attest.example",
            "tls": {"secretName": "attest-tls", "clientCaSecretName": "clients"},
            "credentialsSecretName": "tokens",
            "signingKeys": {"rs256SecretName": "rsa", "es256SecretName": "ec"},
            "secretsKeySecretName": "sealing",
            "withCollateral": False,
            "workers": 2,
            "rate": 10,
            "extraArgs": ["--keep-evidence=100"],
        },
        "collateral": {
            "enabled": True,
            "sources": ["pccs=https://pccs.example:8081", "intel", "dir=/offline"],
            "extraVolumes": [{"name": "offline", "configMap": {"name": "collateral"}}],
            "extraVolumeMounts": [{"name": "offline", "mountPath": "/offline"}],
            "credentialsSecretName": "tokens",
            "tls": {"dangerouslyPlainHttp": True},
        },
    },
}


@cache
def helm() -> Path | None:
    """The pinned Helm, if it is built."""
    if go_version() is None:
        return None
    binary = place(TOOLS["helm"]) / "bin/helm"
    return binary if binary.exists() else None


def template(values: Object, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `helm template` on the chart, with values as a site's own file would give them."""
    program = helm()
    assert program is not None
    command = [str(program), "template", "kubenclave", str(CHART), "--namespace", NAMESPACE, "--values", "-", *options]
    return subprocess.run(command, input=yaml.safe_dump(values), text=True, capture_output=True, check=False)


def render(values: Object, *options: str) -> list[Object]:
    """All objects of the chart, hooks included."""
    done = template(values, *options)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Name and pod template of every workload."""
    for found in objects:
        if pod := found.get("spec", {}).get("template"):
            yield found["metadata"]["name"], pod


def containers(pod: Object) -> list[Object]:
    """Containers and init containers of a pod template."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
