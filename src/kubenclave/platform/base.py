# SPDX-License-Identifier: Apache-2.0
"""What a machine offers to SGX workloads, whatever it is found by: real Linux or the simulated platform."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from kubenclave.sgx.epc import EpcSection, total_bytes

__all__ = [
    "ADDED_ANNOTATION",
    "AESM_ANNOTATION",
    "DRIVER_ANNOTATION",
    "FOREIGN_LABELS",
    "MODE_LABEL",
    "NODE_CONDITION",
    "NUMA_ANNOTATION",
    "SGX_LABEL",
    "SIMULATED_LABEL",
    "CpuFacts",
    "DeviceKind",
    "DeviceNode",
    "DriverFlavour",
    "EpcSection",
    "EpcSource",
    "Inventory",
    "Layer",
    "LayerFinding",
    "LayerState",
    "MachineFacts",
    "Platform",
    "first_missing",
]


class DriverFlavour(StrEnum):
    """The three drivers that ever served SGX on Linux, and the two ways to have none."""

    IN_KERNEL = "in-kernel"
    DCAP = "dcap"
    ISGX = "isgx"
    SIMULATED = "simulated"
    NONE = "none"


class DeviceKind(StrEnum):
    """What opening a device node permits."""

    ENCLAVE = "enclave"
    PROVISION = "provision"
    VEPC = "vepc"


# Where containers look for each device: today's name, then the one old SDKs know.
CONTAINER_PATHS: Final = {
    DeviceKind.ENCLAVE: ("/dev/sgx_enclave", "/dev/sgx/enclave"),
    DeviceKind.PROVISION: ("/dev/sgx_provision", "/dev/sgx/provision"),
    DeviceKind.VEPC: ("/dev/sgx_vepc",),
}


# How a node of a cluster tells what it has. The first three labels and the annotations are ours, the condition too.
SGX_LABEL: Final = "kubenclave.dev/sgx"
MODE_LABEL: Final = "kubenclave.dev/epc-mode"
SIMULATED_LABEL: Final = "kubenclave.dev/simulated"
FOREIGN_LABELS: Final = ("sgx.intel.com/capable", "intel.feature.node.kubernetes.io/sgx")
"""Labels of other vendors by which users select SGX nodes."""
ADDED_ANNOTATION: Final = "kubenclave.dev/added-labels"
"""Names, with commas between, which of those we added, to take no others away."""
NUMA_ANNOTATION: Final = "kubenclave.dev/epc-numa"
DRIVER_ANNOTATION: Final = "kubenclave.dev/driver"
AESM_ANNOTATION: Final = "kubenclave.dev/aesm"
NODE_CONDITION: Final = "SGXReady"


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """One character device; ``path`` is its real place on the host, ``mode`` the twelve permission bits."""

    path: str
    kind: DeviceKind
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


class EpcSource(StrEnum):
    """Who told the EPC sizes. The kernel's word counts more than the processor's."""

    SYSFS = "sysfs"
    CPUID = "cpuid"
    SIMULATED = "simulated"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Inventory:
    """What this machine has at the moment of looking; the two sockets only on a simulated platform."""

    driver: DriverFlavour = DriverFlavour.NONE
    nodes: tuple[DeviceNode, ...] = ()
    sections: tuple[EpcSection, ...] = ()
    epc_source: EpcSource = EpcSource.NONE
    cpu_socket: str | None = None
    provision_socket: str | None = None

    @property
    def simulated(self) -> bool:
        """Tell whether nothing here is protected by hardware."""
        return self.driver is DriverFlavour.SIMULATED

    @property
    def epc_bytes(self) -> int:
        """EPC of all sections together, in bytes."""
        return total_bytes(self.sections)

    def node(self, kind: DeviceKind) -> DeviceNode | None:
        """Return the device node of a kind, if there is one."""
        return next((node for node in self.nodes if node.kind is kind), None)

    def offers(self, kind: DeviceKind) -> bool:
        """Tell whether a container can be given access of this kind: by a device, or by a socket that stands for it."""
        sockets = {DeviceKind.ENCLAVE: self.cpu_socket, DeviceKind.PROVISION: self.provision_socket}
        return self.node(kind) is not None or sockets.get(kind) is not None


class Platform(Protocol):
    """Somebody who can look the machine over. ``inventory`` may block for as long as a file or socket does."""

    def inventory(self) -> Inventory:
        """Return what is there now. Raises PlatformError or UnreachableError when nobody can tell."""
        ...


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """CPUID leaves 07H and 12H, as far as they say something about SGX."""

    sgx: bool
    launch_control: bool
    sgx1: bool
    sgx2: bool
    sections: tuple[tuple[int, int], ...]  # (physical base, size) in bytes


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What does not change while the machine runs. None where it could not be read.

    ``registered`` holds the names of SGX devices that a driver has registered, whether or not they have a node.
    """

    cpu: CpuFacts | None = None
    cpu_model: str | None = None
    cpu_flags: frozenset[str] | None = None
    kernel_release: str | None = None
    kernel_sgx: bool | None = None
    system: str | None = None
    registered: frozenset[str] = field(default_factory=frozenset)


class Layer(StrEnum):
    """What has to be there for an enclave to run, from the ground up."""

    CPU = "cpu"
    BIOS = "bios"
    KERNEL = "kernel"
    DRIVER = "driver"
    DEVICE_NODE = "device node"
    PERMISSIONS = "permissions"
    EPC = "epc"
    PLUGIN = "plugin"
    AESM = "aesm"


class LayerState(StrEnum):
    """Whether a layer is there."""

    OK = "ok"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LayerFinding:
    """One layer as found; ``next_step`` says what to do about it, empty when nothing."""

    layer: Layer
    state: LayerState
    found: str
    next_step: str = ""


def first_missing(findings: Iterable[LayerFinding]) -> LayerFinding | None:
    """Return the lowest layer that is missing: the one to repair first."""
    return next((finding for finding in findings if finding.state is LayerState.MISSING), None)
