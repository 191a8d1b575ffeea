# SPDX-License-Identifier: Apache-2.0
"""A pod from its creation until it runs: without the add-on, and with EPC and an enclave device from the add-on."""

import time
from collections.abc import Iterator
from typing import Final

from benchmarks.figures import Figure, Unit
from benchmarks.timing import Effort
from kubenclave.sgx.epc import EPC_RESOURCE
from tests.chart import NAMESPACE
from tests.cluster import fleet, release
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.parts import wait

POLL: Final = 0.005


def measure(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Start pods one after the other, on the same node."""
    plain = tuple(_start(cluster, {}) for _ in range(2 * effort.runs))
    yield Figure("pod start, no add-on", Unit.MILLISECONDS, plain)
    with release.installed(cluster, release.SIMULATED):
        cluster.wait(lambda: _has_epc(cluster), 60, "EPC", NAMESPACE)
        plain = tuple(_start(cluster, {}) for _ in range(2 * effort.runs))
        confidential = tuple(_start(cluster, {EPC_RESOURCE: "10Mi"}) for _ in range(2 * effort.runs))
    yield Figure("pod start, add-on installed, pod without EPC", Unit.MILLISECONDS, plain)
    yield Figure("pod start, add-on installed, pod with EPC", Unit.MILLISECONDS, confidential)


def _has_epc(cluster: Cluster) -> bool:
    return int(cluster.get("node", "sgx-1")["status"]["allocatable"][EPC_RESOURCE]) > 0


def _start(cluster: Cluster, limits: dict[str, str]) -> float:
    """Return the milliseconds until the API server says that a new pod runs."""
    pod = release.pod("benchmark", limits)
    pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "sgx-1"}
    api = fleet.Api(cluster.kubeconfig)
    with api.posting("/api/v1/namespaces/default/pods") as post:
        begin = time.perf_counter()
        post(pod)
        while api.get("/api/v1/namespaces/default/pods/benchmark")["status"]["phase"] != "Running":
            time.sleep(POLL)
        took = (time.perf_counter() - begin) * 1e3
    cluster.delete("pod", "benchmark")
    wait(lambda: not cluster.items("pods"), 30, "the pod to be gone")
    return took
