# SPDX-License-Identifier: Apache-2.0
"""Device nodes and the driver they tell of.

=================  ==========================================  =======================================
in-kernel (5.11)   /dev/sgx_enclave, _provision, _vepc         udev may add symlinks in /dev/sgx/
DCAP out of tree   /dev/sgx/enclave, /dev/sgx/provision        a real directory
isgx               /dev/isgx                                   SGX1 with launch tokens
=================  ==========================================  =======================================

Minor numbers are dynamic, so everything is asked of ``stat`` and nothing assumed.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from kubenclave.platform.base import DeviceKind, DeviceNode, DriverFlavour

Stat = Callable[[Path], os.stat_result]
"""``os.lstat`` or a stand-in for it: device nodes can be made by root only, tests run as anybody."""

# In order of preference; the flavour is what a real node (not a symlink) at this place tells.
PLACES: Final = (
    (DeviceKind.ENCLAVE, "/dev/sgx_enclave", DriverFlavour.IN_KERNEL),
    (DeviceKind.ENCLAVE, "/dev/sgx/enclave", DriverFlavour.DCAP),
    (DeviceKind.ENCLAVE, "/dev/isgx", DriverFlavour.ISGX),
    (DeviceKind.PROVISION, "/dev/sgx_provision", DriverFlavour.IN_KERNEL),
    (DeviceKind.PROVISION, "/dev/sgx/provision", DriverFlavour.DCAP),
    (DeviceKind.VEPC, "/dev/sgx_vepc", DriverFlavour.IN_KERNEL),
)
_MAX_LINKS = 8
_REGISTERED = ("sgx_enclave", "sgx_provision", "sgx_vepc", "isgx")


def device_nodes(root: Path, lstat: Stat = os.lstat) -> tuple[DeviceNode, ...]:
    """Return one node for each kind that is there, symlinks followed to the real one."""
    found: dict[DeviceKind, DeviceNode] = {}
    for kind, place, _ in PLACES:
        if kind not in found and (node := _node(root, place, kind, lstat)) is not None:
            found[kind] = node
    return tuple(found.values())


def flavour(root: Path, nodes: tuple[DeviceNode, ...]) -> DriverFlavour:
    """Return whose nodes these are. Intel's module may use the in-kernel names too, so it is asked for first."""
    enclave = next((node.path for node in nodes if node.kind is DeviceKind.ENCLAVE), None)
    if enclave is None:
        return DriverFlavour.NONE
    told = next((driver for _, place, driver in PLACES if place == enclave), DriverFlavour.IN_KERNEL)
    if told is DriverFlavour.IN_KERNEL and (root / "sys/module/intel_sgx").is_dir():
        return DriverFlavour.DCAP
    return told


def registered_devices(root: Path) -> frozenset[str]:
    """Return the SGX devices that some driver registered, with a node or without."""
    return frozenset(name for name in _REGISTERED if (root / "sys/class/misc" / name).exists())


def _node(root: Path, place: str, kind: DeviceKind, lstat: Stat) -> DeviceNode | None:
    """Follow symlinks inside ``root`` by hand: an absolute one means a path of the host, not of this process."""
    path = PurePosixPath(place)
    try:
        for _ in range(_MAX_LINKS):
            local = root / path.relative_to("/")
            status = lstat(local)
            if stat.S_ISCHR(status.st_mode):
                return DeviceNode(
                    path=str(path),
                    kind=kind,
                    major=os.major(status.st_rdev),
                    minor=os.minor(status.st_rdev),
                    mode=stat.S_IMODE(status.st_mode),
                    uid=status.st_uid,
                    gid=status.st_gid,
                )
            if not stat.S_ISLNK(status.st_mode):
                return None
            path = PurePosixPath(os.path.normpath(path.parent / local.readlink()))
    except OSError:
        return None
    return None
