# SPDX-License-Identifier: Apache-2.0
"""What the node agent tells about itself, as it is at the moment of asking: status, readiness, metrics."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from kubenclave.errors import KubenclaveError
from kubenclave.node.deviceplugin import ResourcePlugin
from kubenclave.node.health import JSON, TEXT, Answer, AsyncRoute, Route
from kubenclave.node.kubelet import Session, SessionState
from kubenclave.platform.base import DeviceNode, Inventory
from kubenclave.sgx.epc import ENCLAVE_RESOURCE
from kubenclave.wire.metrics import CONTENT_TYPE, Counter, Metrics

if TYPE_CHECKING:
    from kubenclave.node.podresources import PodDevices
    from kubenclave.node.publisher import Publisher

MAX_HOLDERS: Final = 512
"""Containers that are told of one by one: more than twice what has our devices on a node by default."""


@dataclass(frozen=True, slots=True)
class Offering:
    """One resource with what serves it and what keeps it registered."""

    plugin: ResourcePlugin
    session: Session

    @property
    def finding(self) -> str | None:
        """What stands in the way of this resource, None when nothing does."""
        if not self.plugin.healthy:
            return f"{self.plugin.resource}: unhealthy"
        if self.session.state is not SessionState.HELD:
            return f"{self.plugin.resource}: {self.session.state.value}"
        return None


@dataclass(slots=True)
class Condition:
    """What the agent knows now. ``problem`` is why the last look failed, ``looked`` the loop's time of its end."""

    inventory: Inventory = field(default_factory=Inventory)
    problem: KubenclaveError | None = None
    looked: float = 0.0
    offerings: tuple[Offering, ...] = ()

    @property
    def held(self) -> bool:
        """Tell whether the kubelet holds healthy enclave devices."""
        return any(one.plugin.resource == ENCLAVE_RESOURCE and one.finding is None for one in self.offerings)

    @property
    def epc_bytes(self) -> int:
        """EPC that pods can use: none unless the kubelet holds healthy enclave devices, for one is no good alone."""
        return self.inventory.epc_bytes if self.held else 0

    @property
    def findings(self) -> list[str]:
        """What stands in the way of pods, empty when all is well."""
        found = [] if self.problem is None else [f"[{self.problem.code}] {self.problem}"]
        found += [] if self.inventory.epc_bytes else ["no EPC: kubenclave doctor node tells which layer is missing"]
        return found + [one.finding for one in self.offerings if one.finding is not None]


class StatusPage:
    """Answers on the status socket, and on the port for probes.

    ``publisher`` tells what the Node of a cluster is told, ``pod_devices`` which containers have devices; ``stale`` is
    the age in seconds at which the last look counts as stuck.
    """

    def __init__(
        self,
        condition: Condition,
        publisher: "Publisher | None" = None,
        pod_devices: "PodDevices | None" = None,
        *,
        stale: float,
    ) -> None:
        self._condition = condition
        self._publisher = publisher
        self._pod_devices = pod_devices
        self._stale = stale
        self._metrics = Metrics()
        self.answers: Counter = self._metrics.counter(
            "kubenclave_agent_allocations_total", "Containers answered, by resource and answer.", "resource", "answer"
        )
        self._registrations = self._metrics.counter(
            "kubenclave_agent_registrations_total", "Registrations that a kubelet took.", "resource"
        )
        self._devices = self._metrics.gauge(
            "kubenclave_agent_devices", "Devices on the list of a resource.", "resource", "health"
        )
        self._held = self._metrics.gauge(
            "kubenclave_agent_held", "1 while the kubelet keeps the device list open.", "resource"
        )
        self._epc = self._metrics.gauge("kubenclave_agent_epc_bytes", "EPC that pods can use.")
        self._found = self._metrics.gauge("kubenclave_agent_epc_found_bytes", "EPC of this machine, usable or not.")
        if publisher is not None:
            self._calls = self._metrics.counter("kubenclave_agent_api_calls_total", "Requests to the API server.")
            self._reached = self._metrics.gauge(
                "kubenclave_agent_api_reached", "1 if the API server answered the last request."
            )
            self._aesm = self._metrics.gauge("kubenclave_agent_aesm_ready", "1 if somebody answers at the AESM socket.")
        if pod_devices is not None:
            self._holders = self._metrics.gauge(
                "kubenclave_agent_pod_devices",
                "Devices that a container has.",
                "namespace",
                "pod",
                "container",
                "resource",
            )
            self._left_out = self._metrics.gauge(
                "kubenclave_agent_pod_devices_left_out", "Containers with devices beyond those told of one by one."
            )
            self._listed = self._metrics.gauge(
                "kubenclave_agent_pod_resources_reached", "1 if the kubelet told lately who has the devices."
            )

    def routes(self, clock: Callable[[], float]) -> Mapping[str, Route | AsyncRoute]:
        """Return what is served under each path; ``clock`` tells the time that ``looked`` is in."""
        return {
            "/status": lambda: (200, JSON, json.dumps(self.status()).encode()),
            "/healthz": lambda: self._health(clock()),
            "/readyz": self._ready,
            "/metrics": self._figures,
        }

    def probes(self, clock: Callable[[], float]) -> Mapping[str, Route | AsyncRoute]:
        """Return what everybody in the network may ask for: no more than probes and metrics need."""
        routes = self.routes(clock)
        return {path: routes[path] for path in ("/healthz", "/readyz", "/metrics")}

    def status(self) -> dict[str, Any]:
        """Return all there is to tell, as JSON has it. Sizes in bytes."""
        condition = self._condition
        inventory = condition.inventory
        return {
            "epc_bytes": condition.epc_bytes,
            "simulated": inventory.simulated,
            "driver": inventory.driver.value,
            "epc_source": inventory.epc_source.value,
            "epc_sections": [{"numa_node": one.numa_node, "bytes": one.size} for one in inventory.sections],
            "device_nodes": _nodes(inventory.nodes),
            "resources": {
                one.plugin.resource: {
                    "devices": one.plugin.size,
                    "healthy": one.plugin.healthy,
                    "session": one.session.state.value,
                    "registrations": one.session.registrations,
                }
                for one in condition.offerings
            },
            "findings": condition.findings,
        }

    async def _figures(self) -> Answer:
        if self._pod_devices is not None:
            await self._pod_devices.refresh()
            self._tell_holders(self._pod_devices)
        return 200, CONTENT_TYPE, self._render()

    def _tell_holders(self, known: "PodDevices") -> None:
        self._holders.clear()
        for holder, number in islice(known.held.items(), MAX_HOLDERS):
            self._holders.set(number, *holder)
        self._left_out.set(max(0, len(known.held) - MAX_HOLDERS))
        self._listed.set(int(known.reached))

    def _health(self, now: float) -> Answer:
        age = now - self._condition.looked
        if age > self._stale:
            return 503, TEXT, f"the last look at this machine ended {age:.0f} s ago\n".encode()
        return 200, TEXT, b"ok\n"

    def _ready(self) -> Answer:
        findings = self._condition.findings
        if findings:
            return 503, TEXT, "".join(f"{finding}\n" for finding in findings).encode()
        return 200, TEXT, b"ok\n"

    def _render(self) -> bytes:
        self._epc.set(self._condition.epc_bytes)
        self._found.set(self._condition.inventory.epc_bytes)
        for one in self._condition.offerings:
            name = one.plugin.resource
            self._registrations.inc(name, by=one.session.registrations - self._registrations.get(name))
            self._held.set(int(one.session.state is SessionState.HELD), name)
            self._devices.set(one.plugin.size if one.plugin.healthy else 0, name, "healthy")
            self._devices.set(0 if one.plugin.healthy else one.plugin.size, name, "unhealthy")
        if self._publisher is not None:
            self._calls.inc(by=self._publisher.api.calls - self._calls.get())
            self._reached.set(int(self._publisher.reached))
            self._aesm.set(int(bool(self._publisher.facts.aesm)))
        return self._metrics.render()


def _nodes(nodes: Sequence[DeviceNode]) -> list[dict[str, Any]]:
    return [
        {
            "kind": node.kind.value,
            "path": node.path,
            "major": node.major,
            "minor": node.minor,
            "mode": f"{node.mode:04o}",
            "uid": node.uid,
            "gid": node.gid,
        }
        for node in nodes
    ]
