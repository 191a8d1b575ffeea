# SPDX-License-Identifier: Apache-2.0
"""Looking this machine over for the doctor: hardware by the kernel's files, plugin and AESM by asking them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubenclave.errors import KubenclaveError
from kubenclave.local.control import ControlClient, Status, StatusRequest, is_served
from kubenclave.local.state import StateDirectory
from kubenclave.platform.aesmclient import AesmClient, socket_path
from kubenclave.platform.base import (
    DriverFlavour,
    EpcSection,
    EpcSource,
    Inventory,
    LayerFinding,
    LayerState,
)
from kubenclave.platform.doctor import diagnose_node
from kubenclave.platform.linux.discover import LinuxPlatform
from kubenclave.sgx.epc import ENCLAVE_RESOURCE

KUBELET_PLUGINS: Final = Path("var/lib/kubelet/device-plugins")
PLUGIN_SOCKETS: Final = "kubenclave-*.sock"
AESM_PATIENCE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found; ``through`` says by whom it was told."""

    simulated: bool
    through: str
    findings: tuple[LayerFinding, ...]


def examine(root: Path, state: StateDirectory | None) -> Examination:
    """Look the machine below ``root`` over, or what ``up`` runs on it where that answers at ``state``."""
    platform = LinuxPlatform(root)
    status = _ask_up(state) if state is not None else None
    if status is None:
        inventory = platform.inventory()
        plugin, aesm = _plugin(root / KUBELET_PLUGINS), _aesm(socket_path(os.environ))
    else:
        inventory = _simulated(status) if status.simulated else platform.inventory()
        healthy, _ = status.devices.get(ENCLAVE_RESOURCE, (0, 0))
        plugin = LayerState.OK if healthy else LayerState.MISSING
        aesm = _aesm(Path(status.aesm_socket))
    findings = diagnose_node(platform.machine(), inventory, plugin=plugin, aesm=aesm)
    through = "this machine" if status is None or state is None else f"'kubenclave up' with {state.path}"
    return Examination(inventory.simulated, through, findings)


def _ask_up(state: StateDirectory) -> Status | None:
    if not is_served(state.control):
        return None
    try:
        with ControlClient(state.control, deadline=AESM_PATIENCE) as control:
            answer = control.ask(StatusRequest())
    except KubenclaveError:
        return None
    return answer if isinstance(answer, Status) else None


def _simulated(status: Status) -> Inventory:
    sections = (EpcSection(None, status.epc_capacity),) if status.epc_capacity else ()
    return Inventory(
        driver=DriverFlavour.SIMULATED,
        sections=sections,
        epc_source=EpcSource.SIMULATED,
        cpu_socket=status.cpu_socket,
        provision_socket=status.provision_socket,
    )


def _plugin(directory: Path) -> LayerState:
    """Tell whether our plugin serves the kubelet here; nobody can tell where there is no kubelet."""
    if not directory.is_dir():
        return LayerState.UNKNOWN
    served = any(is_served(path) for path in directory.glob(PLUGIN_SOCKETS))
    return LayerState.OK if served else LayerState.MISSING


def _aesm(path: Path) -> LayerState:
    """Tell whether quotes are to be had: the socket has to answer, not only to be there."""
    try:
        AesmClient(path, timeout=AESM_PATIENCE).key_ids()
    except KubenclaveError:
        return LayerState.MISSING
    return LayerState.OK
