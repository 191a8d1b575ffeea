# SPDX-License-Identifier: Apache-2.0
"""The first missing layer is named, whichever it is."""

from dataclasses import replace

import pytest

from kubenclave.platform.base import (
    CpuFacts,
    DeviceKind,
    DeviceNode,
    DriverFlavour,
    EpcSection,
    EpcSource,
    Inventory,
    Layer,
    LayerFinding,
    LayerState,
    MachineFacts,
    first_missing,
)
from kubenclave.platform.doctor import diagnose_node

CPU = CpuFacts(sgx=True, launch_control=True, sgx1=True, sgx2=True, sections=((1 << 32, 1 << 30),))
MACHINE = MachineFacts(
    cpu=CPU,
    cpu_model="Xeon 8370C",
    cpu_flags=frozenset({"sgx", "sgx_lc"}),
    kernel_release="6.8.0-1010-azure",
    kernel_sgx=True,
    system="Ubuntu 24.04",
    registered=frozenset({"sgx_enclave", "sgx_provision"}),
)
ENCLAVE = DeviceNode("/dev/sgx_enclave", DeviceKind.ENCLAVE, 10, 125, 0o666, 0, 0)
PROVISION = DeviceNode("/dev/sgx_provision", DeviceKind.PROVISION, 10, 126, 0o660, 0, 110)
INVENTORY = Inventory(DriverFlavour.IN_KERNEL, (ENCLAVE, PROVISION), (EpcSection(0, 1 << 30),), EpcSource.SYSFS)
NOTHING = Inventory()
NO_DRIVER = replace(MACHINE, registered=frozenset())
OFF = CpuFacts(sgx=True, launch_control=True, sgx1=False, sgx2=False, sections=())
LOCKED = replace(CPU, launch_control=False)
NO_SGX = CpuFacts(sgx=False, launch_control=False, sgx1=False, sgx2=False, sections=())
OLD = MachineFacts(cpu=CPU, kernel_release="5.4.0-150-generic")


def find(findings: tuple[LayerFinding, ...], layer: Layer) -> LayerFinding:
    (finding,) = (one for one in findings if one.layer is layer)
    return finding


def test_complete_machine_misses_nothing() -> None:
    findings = diagnose_node(MACHINE, INVENTORY, plugin=LayerState.OK, aesm=LayerState.OK)
    assert [finding.layer for finding in findings] == list(Layer)
    assert {finding.state for finding in findings} == {LayerState.OK}
    assert [finding.next_step for finding in findings if finding.next_step] == []
    assert first_missing(findings) is None


@pytest.mark.parametrize(
    ("machine", "inventory", "layer", "words"),
    [
        pytest.param(replace(NO_DRIVER, cpu=NO_SGX, cpu_flags=frozenset()), NOTHING, Layer.CPU, "SGX size", id="cpu"),
        pytest.param(replace(NO_DRIVER, cpu=OFF, cpu_flags=frozenset()), NOTHING, Layer.BIOS, "BIOS setup", id="bios"),
        pytest.param(
            replace(NO_DRIVER, cpu=None, cpu_flags=frozenset({"fpu"})), NOTHING, Layer.BIOS, "BIOS", id="no-cpuid"
        ),
        pytest.param(replace(NO_DRIVER, kernel_sgx=False), NOTHING, Layer.KERNEL, "CONFIG_X86_SGX=y", id="option"),
        pytest.param(OLD, NOTHING, Layer.KERNEL, "5.11", id="old-kernel"),
        pytest.param(NO_DRIVER, NOTHING, Layer.DRIVER, "dmesg", id="driver"),
        pytest.param(
            replace(NO_DRIVER, cpu=LOCKED), NOTHING, Layer.DRIVER, "flexible launch control", id="launch-control"
        ),
        pytest.param(MACHINE, NOTHING, Layer.DEVICE_NODE, "udev", id="node"),
        pytest.param(
            MACHINE,
            replace(INVENTORY, nodes=(replace(ENCLAVE, mode=0o600), PROVISION)),
            Layer.PERMISSIONS,
            "MODE=0666",
            id="mode",
        ),
        pytest.param(MACHINE, replace(INVENTORY, sections=()), Layer.EPC, "PRMRR", id="epc"),
    ],
)
def test_first_missing_layer(machine: MachineFacts, inventory: Inventory, layer: Layer, words: str) -> None:
    first = first_missing(diagnose_node(machine, inventory))
    assert first is not None
    assert first.layer is layer
    assert words in first.next_step


def test_plugin_and_aesm_are_layers_too() -> None:
    findings = diagnose_node(MACHINE, INVENTORY, plugin=LayerState.MISSING, aesm=LayerState.MISSING)
    first = first_missing(findings)
    assert first is not None
    assert first.layer is Layer.PLUGIN
    assert "quote helper" in find(findings, Layer.AESM).next_step


def test_unknown_is_not_missing() -> None:
    findings = diagnose_node(MachineFacts(), NOTHING)
    states = {finding.layer: finding.state for finding in findings}
    unknown = {Layer.CPU, Layer.BIOS, Layer.KERNEL, Layer.PERMISSIONS, Layer.EPC, Layer.PLUGIN, Layer.AESM}
    assert {layer for layer, state in states.items() if state is LayerState.UNKNOWN} == unknown
    assert "modprobe cpuid" in find(findings, Layer.CPU).next_step
    assert find(findings, Layer.DEVICE_NODE).next_step == "repair the driver first"


def test_kernel_without_known_configuration_is_unknown() -> None:
    finding = find(diagnose_node(MachineFacts(cpu=CPU, kernel_release="6.8.0"), NOTHING), Layer.KERNEL)
    assert finding.state is LayerState.UNKNOWN


def test_driver_in_use_vouches_for_what_cannot_be_read() -> None:
    findings = diagnose_node(MachineFacts(cpu_model="Xeon"), INVENTORY)
    assert find(findings, Layer.CPU).found == "Xeon: SGX in use"
    assert find(findings, Layer.BIOS).state is LayerState.OK
    assert find(findings, Layer.KERNEL).state is LayerState.OK


def test_epc_set_aside_is_told_before_any_driver() -> None:
    machine = replace(NO_DRIVER, cpu_flags=None)
    assert find(diagnose_node(machine, NOTHING), Layer.BIOS).found == "EPC sections set aside: 1"


def test_group_of_the_device_is_told() -> None:
    inventory = replace(INVENTORY, nodes=(replace(ENCLAVE, mode=0o660, gid=110),))
    findings = diagnose_node(MACHINE, inventory)
    assert find(findings, Layer.PERMISSIONS).next_step.startswith(
        "pods that do not run as root need supplementalGroups: [110]"
    )
    assert "quoting enclave" in find(findings, Layer.DEVICE_NODE).next_step


def test_isgx_cannot_do_dcap() -> None:
    inventory = Inventory(
        DriverFlavour.ISGX, (replace(ENCLAVE, path="/dev/isgx"),), (EpcSection(None, 4096),), EpcSource.CPUID
    )
    findings = diagnose_node(replace(MACHINE, cpu=LOCKED), inventory)
    assert "launch tokens" in find(findings, Layer.DRIVER).next_step
    assert find(findings, Layer.EPC).found == "4Ki (cpuid: 4Ki)"


def test_simulated_machine_says_so_on_each_layer() -> None:
    inventory = Inventory(DriverFlavour.SIMULATED, (), (EpcSection(0, 1 << 27),), EpcSource.SIMULATED, "/c", "/p")
    findings = diagnose_node(MachineFacts(), inventory, plugin=LayerState.OK, aesm=LayerState.OK)
    assert all("SIMULATED" in finding.found for finding in findings[:6])
    assert find(findings, Layer.EPC).found == "128Mi (simulated: 128Mi on NUMA node 0)"
    assert first_missing(findings) is None
    assert inventory.offers(DeviceKind.PROVISION)
