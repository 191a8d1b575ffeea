# SPDX-License-Identifier: Apache-2.0
"""Which containers of this node have our devices, as the kubelet tells on its podresources socket.

Nobody but a scrape asks, at most every ten seconds: a kubelet answers for all pods and all devices of the node, some
megabytes where there are many. Kubelets before 1.34 may tell of pods that have ended, too.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from kubenclave._proto import podresources_pb2 as pb
from kubenclave._proto.podresources_grpc import PodResourcesListerStub
from kubenclave.errors import UnreachableError
from kubenclave.node import kubelet
from kubenclave.node.log import Logger
from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, PROVISION_RESOURCE

RESOURCES: Final = frozenset({ENCLAVE_RESOURCE, PROVISION_RESOURCE, AZURE_EPC_RESOURCE})
FRESH: Final = 10.0
"""Seconds for which an answer is used, or its absence."""
TIMEOUT: Final = 1.0
"""Seconds that a kubelet has: a scrape waits no longer for it."""

_log = Logger()


class Holder(NamedTuple):
    """A container that has devices of one resource."""

    namespace: str
    pod: str
    container: str
    resource: str


class PodDevices:
    """Keeps the last answer from ``socket``.

    ``held`` are the numbers of devices, empty while the kubelet does not answer; ``reached`` tells whether it did.
    """

    def __init__(self, socket: Path, *, fresh: float = FRESH, timeout: float = TIMEOUT) -> None:
        self.held: Mapping[Holder, int] = {}
        self.reached = False
        self._socket = socket
        self._fresh = fresh
        self._timeout = timeout
        self._asked: float | None = None
        self._asking = asyncio.Lock()
        self._told = ""

    async def refresh(self) -> None:
        """Ask the kubelet if the last answer is not fresh any more; those who come meanwhile wait for the same."""
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if self._asked is not None and clock() - self._asked < self._fresh:
                return
            try:
                self.held, self.reached = held(await self._list()), True
                self._tell(None)
            except UnreachableError as error:
                self.held, self.reached = {}, False
                self._tell(error)
            self._asked = clock()

    async def _list(self) -> pb.ListPodResourcesResponse:
        request, timeout = pb.ListPodResourcesRequest(), self._timeout
        return await kubelet.ask(
            self._socket, lambda channel: PodResourcesListerStub(channel).List(request, timeout=timeout)
        )

    def _tell(self, error: UnreachableError | None) -> None:
        """Log each turn of events once."""
        told = "" if error is None else str(error)
        if told != self._told:
            self._told = told
            if error is None:
                _log.info("podresources.reached", socket=str(self._socket))
            else:
                _log.warning("podresources.unreachable", code=error.code, error=str(error))


def held(response: pb.ListPodResourcesResponse) -> dict[Holder, int]:
    """Return how many of our devices each container has."""
    counts: dict[Holder, int] = {}
    for pod in response.pod_resources:
        for container in pod.containers:
            for devices in container.devices:
                if devices.resource_name in RESOURCES:
                    holder = Holder(pod.namespace, pod.name, container.name, devices.resource_name)
                    counts[holder] = counts.get(holder, 0) + len(devices.device_ids)
    return counts
