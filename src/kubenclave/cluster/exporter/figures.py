# SPDX-License-Identifier: Apache-2.0
"""The exporter's metrics, made anew from the view at each scrape."""

from collections import Counter
from typing import Final

from kubenclave.cluster.exporter.view import View
from kubenclave.wire.metrics import Gauge, Metrics


class Figures:
    """Renders a view. ``per_pod`` adds a series for each pod with EPC: leave it out where there are very many."""

    def __init__(self, view: View, *, per_pod: bool) -> None:
        self._view: Final = view
        self.metrics: Final = Metrics()
        gauge = self.metrics.gauge
        self._capacity = gauge("kubenclave_node_epc_capacity_bytes", "EPC of a node.", "node")
        self._allocatable = gauge("kubenclave_node_epc_allocatable_bytes", "EPC of a node that pods can have.", "node")
        self._requested = gauge("kubenclave_node_epc_requested_bytes", "EPC promised to a node's pods.", "node")
        self._free = gauge("kubenclave_node_epc_free_bytes", "EPC of a node that nobody was promised.", "node")
        self._over = gauge(
            "kubenclave_node_epc_overcommitted_bytes", "EPC promised beyond what a node has. Always 0.", "node"
        )
        self._withdrawn = gauge(
            "kubenclave_node_epc_withdrawn_bytes", "EPC that pods hold on a node that has withdrawn its own.", "node"
        )
        self._enclaves = gauge("kubenclave_node_enclave_devices", "Enclave devices that a node offers.", "node")
        self._ready = gauge("kubenclave_node_sgx_ready", "1 while a node's condition SGXReady is True.", "node")
        self._simulated = gauge("kubenclave_node_simulated", "1 for a node whose SGX is SIMULATED.", "node")
        self._namespace = gauge(
            "kubenclave_namespace_epc_requested_bytes", "EPC promised to the pods of a namespace.", "namespace"
        )
        self._pod: Gauge | None = None
        if per_pod:
            self._pod = gauge(
                "kubenclave_pod_epc_requested_bytes", "EPC promised to a pod.", "namespace", "pod", "node"
            )
        self._pods = gauge("kubenclave_epc_pods", "Pods with EPC, by whether they have a node.", "state")
        self._pending = gauge("kubenclave_epc_pending_bytes", "EPC that pods without a node ask for.")
        self._largest = gauge("kubenclave_epc_largest_node_bytes", "EPC of the node that has most.")

        self.lists: Final = self.metrics.counter(
            "kubenclave_exporter_lists_total", "Times that all objects of a kind were read.", "kind"
        )

    def render(self) -> bytes:
        """Return all figures in the Prometheus text format."""
        self._nodes()
        self._takers()
        return self.metrics.render()

    def _nodes(self) -> None:
        per_node = (self._capacity, self._allocatable, self._requested, self._free, self._over, self._withdrawn)
        for gauge in (*per_node, self._enclaves, self._ready, self._simulated):
            gauge.clear()
        requested = self._view.requested()
        for node in self._view.nodes.held.values():
            taken = requested.get(node.name, 0)
            if not node.is_sgx and not taken:
                continue
            self._capacity.set(node.capacity, node.name)
            self._allocatable.set(node.allocatable, node.name)
            self._requested.set(taken, node.name)
            self._free.set(max(node.allocatable - taken, 0), node.name)
            self._over.set(max(taken - node.capacity, 0) if node.capacity else 0, node.name)
            self._withdrawn.set(0 if node.capacity else taken, node.name)
            self._enclaves.set(node.enclaves, node.name)
            self._ready.set(int(node.ready), node.name)
            self._simulated.set(int(node.simulated), node.name)
        self._largest.set(self._view.largest)

    def _takers(self) -> None:
        by_namespace: Counter[str] = Counter()
        pods = {"scheduled": 0, "pending": 0}
        pending = 0
        if self._pod is not None:
            self._pod.clear()
        for pod in self._view.pods.held.values():
            pods["pending" if pod.node is None else "scheduled"] += 1
            pending += pod.epc if pod.node is None else 0
            if pod.node is not None:
                by_namespace[pod.namespace] += pod.epc
            if self._pod is not None:
                self._pod.set(pod.epc, pod.namespace, pod.name, pod.node or "")
        self._namespace.clear()
        for namespace, size in by_namespace.items():
            self._namespace.set(size, namespace)
        for state, count in pods.items():
            self._pods.set(count, state)
        self._pending.set(pending)
