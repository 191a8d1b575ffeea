# SPDX-License-Identifier: Apache-2.0
"""Which layer between the processor and a running enclave is missing, and what to do about it.

Pure: facts in, findings out, always one finding for each layer and in the same order, so that
``first_missing(diagnose_node(...))`` is the thing to repair first.
"""

from collections.abc import Callable
from typing import Final

from kubenclave.platform.base import (
    DeviceKind,
    DeviceNode,
    DriverFlavour,
    EpcSource,
    Inventory,
    Layer,
    LayerFinding,
    LayerState,
    MachineFacts,
)
from kubenclave.platform.linux import kernel
from kubenclave.sgx.epc import amount

_OK: Final = LayerState.OK
_MISSING: Final = LayerState.MISSING
_UNKNOWN: Final = LayerState.UNKNOWN

Answer = tuple[LayerState, str, str]
"""State, what was found, next step."""


def diagnose_node(
    machine: MachineFacts,
    inventory: Inventory,
    *,
    plugin: LayerState = LayerState.UNKNOWN,
    aesm: LayerState = LayerState.UNKNOWN,
) -> tuple[LayerFinding, ...]:
    """Return one finding for each layer, lowest first.

    ``plugin`` says whether the kubelet knows our resources, ``aesm`` whether somebody serves the AESM socket; both
    are the caller's to find out.
    """
    rules: tuple[tuple[Layer, Callable[[MachineFacts, Inventory], Answer]], ...] = (
        (Layer.CPU, _cpu),
        (Layer.BIOS, _bios),
        (Layer.KERNEL, _kernel),
        (Layer.DRIVER, _driver),
        (Layer.DEVICE_NODE, _device_node),
        (Layer.PERMISSIONS, lambda _, found: _permissions(found)),
        (Layer.EPC, _epc),
    )
    simulated: Answer = (_OK, "SIMULATED, nothing is protected by hardware", "")
    findings = [
        LayerFinding(
            layer,
            *(simulated if inventory.simulated and layer is not Layer.EPC else rule(machine, inventory)),
        )
        for layer, rule in rules
    ]
    return (*findings, _plugin(plugin), _aesm(aesm))


def _cpu(machine: MachineFacts, inventory: Inventory) -> Answer:
    model = machine.cpu_model or "this processor"
    if machine.cpu is not None and not machine.cpu.sgx:
        step = "use a machine with SGX; as virtual machine an SGX size (Azure DCsv3), or expose SGX to the guest"
        return _MISSING, f"CPUID of {model} does not announce SGX", step
    if machine.cpu is not None:
        return _OK, f"{model}: SGX{2 if machine.cpu.sgx2 else 1}", ""
    if _in_use(machine, inventory):
        return _OK, f"{model}: SGX in use", ""
    step = "load the kernel module that shows CPUID (modprobe cpuid) and run this as root"
    return _UNKNOWN, f"{model}: no access to CPUID, and the kernel does not list the flag sgx", step


def _bios(machine: MachineFacts, inventory: Inventory) -> Answer:
    if _in_use(machine, inventory):
        return _OK, "the kernel sees SGX switched on", ""
    if machine.cpu is None and _kernel_would_list_sgx(machine):
        step = "look into the BIOS setup (SGX: Enabled) or the hypervisor; most processors have no SGX at all"
        return _MISSING, "the kernel knows SGX but finds it absent or switched off", step
    if machine.cpu is None or not machine.cpu.sgx:
        return _UNKNOWN, "cannot be told without the layer below", ""
    if not machine.cpu.sgx1 or not machine.cpu.sections:
        step = "switch SGX on in the BIOS setup (SGX: Enabled; on servers also memory encryption and PRMRR size)"
        return _MISSING, "the processor has SGX but no EPC is set aside", step
    return _OK, f"EPC sections set aside: {len(machine.cpu.sections)}", ""


def _kernel(machine: MachineFacts, inventory: Inventory) -> Answer:
    name = f"kernel {machine.kernel_release or 'of unknown release'}"
    if machine.system:
        name += f", {machine.system}"
    if inventory.nodes or machine.registered:
        return _OK, name, ""
    if machine.kernel_sgx is False:
        step = "boot a kernel with CONFIG_X86_SGX=y (Linux 5.11 or later), or install Intel's DCAP driver"
        return _MISSING, f"{name} is built without CONFIG_X86_SGX", step
    number = kernel.version(machine.kernel_release or "")
    if number is not None and number < kernel.FIRST_RELEASE:
        step = "upgrade to Linux 5.11 or later, or install Intel's DCAP driver"
        return _MISSING, f"{name} has no SGX driver of its own", step
    if number is None or machine.kernel_sgx is None:
        return (
            _UNKNOWN,
            f"{name}: configuration not found",
            "look for CONFIG_X86_SGX in the kernel's configuration",
        )
    return _OK, name, ""


def _driver(machine: MachineFacts, inventory: Inventory) -> Answer:
    if inventory.driver is not DriverFlavour.NONE:
        step = ""
        if inventory.driver is DriverFlavour.ISGX:
            step = "isgx serves SGX1 with launch tokens only: DCAP quotes need the in-kernel or the DCAP driver"
        return _OK, f"{inventory.driver} driver", step
    if machine.registered:
        return _OK, f"registered {', '.join(sorted(machine.registered))}", ""
    if machine.cpu is not None and machine.cpu.sgx and not machine.cpu.launch_control:
        step = "switch on flexible launch control (SGX_LC) in the BIOS setup: the in-kernel driver requires it"
        return _MISSING, "no driver, and launch control is locked", step
    return (
        _MISSING,
        "no SGX driver has registered a device",
        "see dmesg for lines with 'sgx:'; load or install a driver",
    )


def _device_node(machine: MachineFacts, inventory: Inventory) -> Answer:
    enclave, provision = inventory.node(DeviceKind.ENCLAVE), inventory.node(DeviceKind.PROVISION)
    if enclave is not None and provision is not None:
        return _OK, f"{_describe(enclave)}, {_describe(provision)}", ""
    if enclave is not None:
        step = "without a provision device no quoting enclave can be certified on this machine"
        return _OK, f"{_describe(enclave)}, no provision device", step
    step = "let udev make it; in a container mount the host's /dev below the root that is looked at"
    return _MISSING, "no enclave device node", step if machine.registered else "repair the driver first"


def _permissions(inventory: Inventory) -> Answer:
    node = inventory.node(DeviceKind.ENCLAVE)
    if node is None:
        return _UNKNOWN, "no enclave device node", ""
    found = f"{node.path} has mode {node.mode:04o}, owner {node.uid}, group {node.gid}"
    if node.mode & 0o006 == 0o006:
        return _OK, found, ""
    if node.mode & 0o060 == 0o060:
        step = f"pods that do not run as root need supplementalGroups: [{node.gid}], or a udev rule with MODE=0666"
        return _OK, found, step
    return _MISSING, found, "a udev rule with MODE=0666 (or GROUP=sgx, MODE=0660) lets others than root open it"


def _epc(machine: MachineFacts, inventory: Inventory) -> Answer:
    if inventory.epc_bytes:
        parts = ", ".join(
            amount(section.size) + ("" if section.numa_node is None else f" on NUMA node {section.numa_node}")
            for section in inventory.sections
        )
        return _OK, f"{amount(inventory.epc_bytes)} ({inventory.epc_source}: {parts})", ""
    if machine.cpu is not None or inventory.epc_source is not EpcSource.NONE:
        return _MISSING, "no EPC", "give SGX more PRMRR in the BIOS setup, or EPC to the virtual machine"
    step = "modprobe cpuid and run as root, or use Linux 5.17 or later, which shows EPC in sysfs"
    return _UNKNOWN, "neither sysfs nor CPUID can be read", step


def _plugin(state: LayerState) -> LayerFinding:
    found, step = {
        _OK: ("the kubelet lists the resources", ""),
        _MISSING: ("the kubelet does not list the resources", "start the node agent and see its log"),
        _UNKNOWN: ("the node agent was not asked", ""),
    }[state]
    return LayerFinding(Layer.PLUGIN, state, found, step)


def _aesm(state: LayerState) -> LayerFinding:
    found, step = {
        _OK: ("the AESM socket answers", ""),
        _MISSING: ("nobody serves the AESM socket", "start the quote helper (or Intel's aesmd) on this node"),
        _UNKNOWN: ("the AESM socket was not tried", ""),
    }[state]
    return LayerFinding(Layer.AESM, state, found, step)


def _in_use(machine: MachineFacts, inventory: Inventory) -> bool:
    """Tell whether the kernel vouches for CPU and BIOS: without them it drops the flag and loads no driver."""
    return bool(inventory.nodes or machine.registered) or "sgx" in (machine.cpu_flags or ())


def _kernel_would_list_sgx(machine: MachineFacts) -> bool:
    """Tell whether the absence of the flag ``sgx`` says something about the hardware and not about the kernel."""
    number = kernel.version(machine.kernel_release or "")
    new_enough = number is not None and number >= kernel.FIRST_RELEASE
    return machine.cpu_flags is not None and machine.kernel_sgx is not False and new_enough


def _describe(node: DeviceNode) -> str:
    return f"{node.path} ({node.major}:{node.minor})"
