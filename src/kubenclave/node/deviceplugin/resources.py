# SPDX-License-Identifier: Apache-2.0
"""What a machine offers as resources, and what a container gets for them. Pure: inventory in, answers out."""

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kubenclave.errors import PlatformError
from kubenclave.platform import sockets
from kubenclave.platform.base import CONTAINER_PATHS, DeviceKind, DriverFlavour, Inventory
from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, PROVISION_RESOURCE, EpcMode, whole_mib

DEFAULT_LIMIT: Final = 110  # what a kubelet runs at most by default, in pods
MAX_EPC_DEVICES: Final = 4096


@dataclass(frozen=True, slots=True)
class Offer:
    """What the administrator wants to offer; the limits are numbers of containers. ``aesm_directory`` is the host's."""

    enclave_limit: int = DEFAULT_LIMIT
    provision_limit: int = DEFAULT_LIMIT
    epc_mode: EpcMode = EpcMode.CAPACITY
    aesm_directory: str | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """One unit of a resource."""

    name: str
    numa_node: int | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    """Something of the host's file system inside a container, read-only."""

    container_path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a container gets, however many units it asked for. ``devices`` are (container path, host path)."""

    envs: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as it is now; ``endpoint`` is the name of its socket."""

    name: str
    endpoint: str
    devices: tuple[Device, ...]
    healthy: bool
    grant: Grant


def resources(inventory: Inventory, offer: Offer) -> tuple[Resource, ...]:
    """Return the resources of this machine, the unhealthy ones included.

    Raises PlatformError when EPC by the MiB is wanted and there is too much of it.
    """
    enclave = Resource(
        ENCLAVE_RESOURCE,
        "kubenclave-enclave.sock",
        _numbered("enclave", offer.enclave_limit),
        inventory.offers(DeviceKind.ENCLAVE),
        _enclave_grant(inventory, offer),
    )
    provision = Resource(
        PROVISION_RESOURCE,
        "kubenclave-provision.sock",
        _numbered("provision", offer.provision_limit),
        inventory.offers(DeviceKind.PROVISION),
        _provision_grant(inventory),
    )
    if offer.epc_mode is EpcMode.CAPACITY:
        return enclave, provision
    epc = Resource(AZURE_EPC_RESOURCE, "kubenclave-epc.sock", _mib_devices(inventory), enclave.healthy, enclave.grant)
    return enclave, provision, epc


def preferred(devices: Mapping[str, Device], available: Iterable[str], wanted: Iterable[str], size: int) -> list[str]:
    """Return ``size`` device names: those ``wanted`` first, the rest from as few NUMA nodes as possible.

    Starts where already wanted devices are, then takes the smallest node that holds all of the rest, else the largest.
    It is a hint, so an impossible request gets as much as there is.
    """
    chosen = list(dict.fromkeys(wanted))
    taken = {devices[name].numa_node for name in chosen if name in devices}
    free: dict[int | None, list[str]] = {}
    for name in sorted(set(available) - set(chosen), key=_in_order):
        free.setdefault(devices[name].numa_node if name in devices else None, []).append(name)
    while (missing := size - len(chosen)) > 0 and free:
        node = min(
            free, key=lambda node: (node not in taken, len(free[node]) < missing, _fit(len(free[node]), missing))
        )
        chosen += free.pop(node)[:missing]
    return chosen


def _fit(there: int, missing: int) -> int:
    """Order nodes that are large enough from small to large, and those that are not from large to small."""
    return there if there >= missing else -there


def _in_order(name: str) -> tuple[int, str]:
    return len(name), name


def _numbered(kind: str, limit: int) -> tuple[Device, ...]:
    return tuple(Device(f"{kind}-{number}") for number in range(limit))


def _mib_devices(inventory: Inventory) -> tuple[Device, ...]:
    count = sum(whole_mib(section.size) for section in inventory.sections)
    if count > MAX_EPC_DEVICES:
        raise PlatformError(
            "too much EPC to count it as one device for each MiB",
            code="deviceplugin.epc-too-large",
            expected=f"at most {MAX_EPC_DEVICES} MiB",
            found=f"{count} MiB",
            hint="use --epc-mode=capacity: kubelets write every device into the pod's status, which the API server "
            "refuses beyond 3 MiB, and they cut the connection at a list of 4 MiB",
        )
    return tuple(
        Device(f"epc-{position}-{number}", section.numa_node)
        for position, section in enumerate(inventory.sections)
        for number in range(whole_mib(section.size))
    )


def _enclave_grant(inventory: Inventory, offer: Offer) -> Grant:
    mounts = []
    envs = {}
    if offer.aesm_directory is not None:
        mounts.append(Mount(sockets.AESM_FOLDER, offer.aesm_directory))
    if inventory.cpu_socket is not None:
        folder, name = posixpath.split(inventory.cpu_socket)
        mounts.append(Mount(sockets.CPU_FOLDER, folder))
        envs[sockets.CPU_SOCKET_VARIABLE] = f"{sockets.CPU_FOLDER}/{name}"
    return Grant(envs, tuple(mounts), _device_paths(inventory, DeviceKind.ENCLAVE))


def _provision_grant(inventory: Inventory) -> Grant:
    devices = _device_paths(inventory, DeviceKind.PROVISION)
    if inventory.provision_socket is None:
        return Grant(devices=devices)
    folder, name = posixpath.split(inventory.provision_socket)
    envs = {sockets.PROVISION_SOCKET_VARIABLE: f"{sockets.PROVISION_FOLDER}/{name}"}
    return Grant(envs, (Mount(sockets.PROVISION_FOLDER, folder),), devices)


def _device_paths(inventory: Inventory, kind: DeviceKind) -> tuple[tuple[str, str], ...]:
    """Return each name under which containers look for the device; symlinks would not reach them."""
    node = inventory.node(kind)
    if node is None:
        return ()
    if inventory.driver is DriverFlavour.ISGX:
        return ((node.path, node.path),)
    return tuple((container, node.path) for container in CONTAINER_PATHS[kind])
