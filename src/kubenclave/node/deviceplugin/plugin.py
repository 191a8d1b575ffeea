# SPDX-License-Identifier: Apache-2.0
"""A resource in the words of the device-plugin protocol, answered from memory."""

from collections.abc import Sequence
from typing import Final

from kubenclave._proto import deviceplugin_pb2 as pb
from kubenclave.errors import PlatformError, UsageError
from kubenclave.node.deviceplugin.resources import Device, Resource, preferred
from kubenclave.node.watch import Signal
from kubenclave.wire.metrics import Counter

MAX_LIST: Final = 4 << 20
"""Bytes a kubelet receives in one message; beyond it the resource silently drops to 0."""


class ResourcePlugin:
    """Answers the kubelet for one resource. ``answers`` counts allocations by resource and answer."""

    def __init__(self, resource: Resource, answers: Counter) -> None:
        self.changed = Signal()
        self.resource = resource.name
        self.endpoint = resource.endpoint
        self._answers = answers
        self._devices: dict[str, Device] = {}
        self._take(resource)

    @property
    def healthy(self) -> bool:
        """Tell whether a container would get what it asks for."""
        return self._resource.healthy

    @property
    def size(self) -> int:
        """How many devices the list holds, healthy or not."""
        return len(self._devices)

    def update(self, resource: Resource) -> None:
        """Answer by a new state of the same resource from now on, and tell the kubelet if the list is another."""
        before = self._list
        self._take(resource)
        if self._list != before:
            self.changed.notify()

    def devices(self) -> pb.ListAndWatchResponse:
        """Return the whole list."""
        return self._list

    def preferred(self, request: pb.PreferredAllocationRequest) -> pb.PreferredAllocationResponse:
        """Return devices of as few NUMA nodes as possible."""
        return pb.PreferredAllocationResponse(
            container_responses=[
                pb.ContainerPreferredAllocationResponse(
                    deviceIDs=preferred(
                        self._devices, one.available_deviceIDs, one.must_include_deviceIDs, one.allocation_size
                    )
                )
                for one in request.container_requests
            ]
        )

    def allocate(self, request: pb.AllocateRequest) -> pb.AllocateResponse:
        """Return what the containers get.

        Raises UsageError for devices that are not on the list, PlatformError while the resource is unhealthy.
        """
        try:
            for container in request.container_requests:
                self._check(container.devices_ids)
        except (UsageError, PlatformError) as error:
            self._answers.inc(self.resource, error.code)
            raise
        self._answers.inc(self.resource, "granted", by=len(request.container_requests))
        return pb.AllocateResponse(container_responses=[self._grant] * len(request.container_requests))

    def _check(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._devices]
        if unknown or not names:
            raise UsageError(
                f"no such device of {self.resource}",
                code="deviceplugin.unknown-device",
                expected=f"one of {len(self._devices)} devices on the list",
                found=", ".join(unknown[:5]) or "none",
                hint="the kubelet goes by an older list; the next pod will fit",
            )
        if not self._resource.healthy:
            raise PlatformError(
                f"{self.resource} is not usable on this node now",
                code="deviceplugin.unhealthy",
                hint="kubenclave doctor node tells which layer is missing",
            )

    def _take(self, resource: Resource) -> None:
        devices = {device.name: device for device in resource.devices}
        if not devices and not resource.healthy:
            devices = self._devices  # what is gone is told as unhealthy, not forgotten
        self._list = _encode(resource, devices)
        self._devices = devices
        self._resource = resource
        self._grant = pb.ContainerAllocateResponse(
            envs=dict(resource.grant.envs),
            mounts=[
                pb.Mount(container_path=mount.container_path, host_path=mount.host_path, read_only=True)
                for mount in resource.grant.mounts
            ],
            devices=[
                pb.DeviceSpec(container_path=container, host_path=host, permissions="rw")
                for container, host in resource.grant.devices
            ],
        )


def _encode(resource: Resource, devices: dict[str, Device]) -> pb.ListAndWatchResponse:
    """Return the list. Raises PlatformError if a kubelet would not receive it, in good health or in bad."""
    largest = _list(devices, "Unhealthy").ByteSize()
    if largest > MAX_LIST:
        raise PlatformError(
            f"the device list of {resource.name} is too long for a kubelet",
            code="deviceplugin.list-too-long",
            expected=f"at most {MAX_LIST} bytes",
            found=f"{largest} bytes for {len(devices)} devices",
            hint="lower the limit",
        )
    return _list(devices, "Healthy" if resource.healthy else "Unhealthy")


def _list(devices: dict[str, Device], health: str) -> pb.ListAndWatchResponse:
    return pb.ListAndWatchResponse(
        devices=[
            pb.Device(
                ID=device.name,
                health=health,
                topology=None
                if device.numa_node is None
                else pb.TopologyInfo(nodes=[pb.NUMANode(ID=device.numa_node)]),
            )
            for device in devices.values()
        ]
    )
