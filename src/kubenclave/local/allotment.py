# SPDX-License-Identifier: Apache-2.0
"""What a device plugin grants a container, apart from the protocol that says so."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Mount:
    """Something of the host inside a container."""

    container_path: str
    host_path: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device node inside a container; ``permissions`` is a part of ``rwm``."""

    container_path: str
    host_path: str
    permissions: str = "rw"


@dataclass(frozen=True, slots=True)
class Allotment:
    """What one container was granted of one resource."""

    resource: str
    devices_ids: tuple[str, ...]
    envs: dict[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceSpec, ...] = ()
