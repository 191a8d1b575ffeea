# SPDX-License-Identifier: Apache-2.0
"""metrics-server as a process beside the control plane, reached through the API server's aggregation as anywhere."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from tests.cluster.harness import network
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.parts import Part
from tools.kubernetes.build import TOOLS, place

PORT: Final = 4443
_NAME: Final = {"name": "metrics-server", "namespace": "kube-system"}
_OBJECTS: Final[list[dict[str, Any]]] = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _NAME,
        "spec": {"ports": [{"name": "https", "port": 443, "targetPort": PORT}]},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**_NAME, "labels": {"kubernetes.io/service-name": "metrics-server"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [network.CONTROL_PLANE]}],
        "ports": [{"name": "https", "port": PORT}],
    },
    {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "service": _NAME,
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    },
    # The test's API server has no front-proxy certificate, so what it forwards arrives without a name.
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "metrics-of-the-test"},
        "rules": [
            {"apiGroups": ["metrics.k8s.io"], "resources": ["*"], "verbs": ["get", "list"]},
            {"nonResourceURLs": ["/apis", "/apis/*"], "verbs": ["get"]},
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "metrics-of-the-test"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "metrics-of-the-test"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}],
    },
]


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[None]:
    """Serve metrics.k8s.io until the end of the block, once there are metrics of every node."""
    config = f"={cluster.kubeconfig}"
    options = [f"--{kind}kubeconfig{config}" for kind in ("", "authentication-", "authorization-")]
    options += ["--authentication-skip-lookup", f"--secure-port={PORT}", f"--bind-address={network.CONTROL_PLANE}"]
    options += [f"--cert-dir={cluster.folder / 'metrics-server'}", "--metric-resolution=10s"]
    options += ["--kubelet-request-timeout=5s"]
    options += ["--kubelet-preferred-address-types=InternalIP"]
    options += [f"--kubelet-certificate-authority={cluster.control.authority.certificate}"]
    part = Part("metrics-server", [place(TOOLS["metrics-server"]) / "bin/metrics-server", *options], cluster.logs)
    part.start()
    try:
        cluster.apply(_OBJECTS, "kube-system")
        cluster.wait(lambda: len(cluster.items("nodes.metrics.k8s.io")) == len(cluster.nodes), 90, "metrics")
        yield
    finally:
        cluster.kubectl("delete", "apiservice", "v1beta1.metrics.k8s.io")
        cluster.kubectl("delete", "service,endpointslice", "metrics-server", "-n", "kube-system")
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", "metrics-of-the-test")
        part.stop()
