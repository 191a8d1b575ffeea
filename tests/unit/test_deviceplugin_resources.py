# SPDX-License-Identifier: Apache-2.0
"""What containers get for a device, on each kind of machine."""

from dataclasses import replace

import pytest

from kubenclave._proto import deviceplugin_pb2 as pb
from kubenclave.errors import PlatformError, UsageError
from kubenclave.node.deviceplugin import EpcMode, Offer, Resource, ResourcePlugin, resources
from kubenclave.node.deviceplugin.plugin import MAX_LIST
from kubenclave.node.deviceplugin.resources import Device, Grant, Mount, preferred
from kubenclave.platform.base import DeviceKind, DeviceNode, DriverFlavour, EpcSection, EpcSource, Inventory
from kubenclave.platform.simcpu import provision_socket_path, socket_path
from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, MIB, PROVISION_RESOURCE
from kubenclave.wire.metrics import Counter, Metrics

ENCLAVE = DeviceNode("/dev/sgx_enclave", DeviceKind.ENCLAVE, 10, 125, 0o666, 0, 0)
PROVISION = DeviceNode("/dev/sgx_provision", DeviceKind.PROVISION, 10, 126, 0o660, 0, 110)
VEPC = DeviceNode("/dev/sgx_vepc", DeviceKind.VEPC, 10, 124, 0o660, 0, 110)
IN_KERNEL = Inventory(
    DriverFlavour.IN_KERNEL,
    (ENCLAVE, PROVISION, VEPC),
    (EpcSection(0, 3 * MIB), EpcSection(1, 2 * MIB)),
    EpcSource.SYSFS,
)
DCAP = Inventory(
    DriverFlavour.DCAP, (replace(ENCLAVE, path="/dev/sgx/enclave"), replace(PROVISION, path="/dev/sgx/provision"))
)
ISGX = Inventory(DriverFlavour.ISGX, (replace(ENCLAVE, path="/dev/isgx"),))
SIMULATED = Inventory(
    DriverFlavour.SIMULATED,
    (),
    (EpcSection(0, 4 * MIB),),
    EpcSource.SIMULATED,
    cpu_socket="/state/cpu/cpu.sock",
    provision_socket="/state/provision/cpu/cpu.sock",
)
AESM = Mount("/var/run/aesmd", "/run/aesmd-of-host")


def counter() -> Counter:
    return Metrics().counter("allocations_total", "", "resource", "answer")


def by_name(inventory: Inventory, offer: Offer | None = None) -> dict[str, Resource]:
    return {resource.name: resource for resource in resources(inventory, offer or Offer())}


@pytest.mark.parametrize(
    ("inventory", "enclave", "provision"),
    [
        pytest.param(
            IN_KERNEL,
            (("/dev/sgx_enclave", "/dev/sgx_enclave"), ("/dev/sgx/enclave", "/dev/sgx_enclave")),
            (("/dev/sgx_provision", "/dev/sgx_provision"), ("/dev/sgx/provision", "/dev/sgx_provision")),
            id="in-kernel",
        ),
        pytest.param(
            DCAP,
            (("/dev/sgx_enclave", "/dev/sgx/enclave"), ("/dev/sgx/enclave", "/dev/sgx/enclave")),
            (("/dev/sgx_provision", "/dev/sgx/provision"), ("/dev/sgx/provision", "/dev/sgx/provision")),
            id="dcap",
        ),
        pytest.param(ISGX, (("/dev/isgx", "/dev/isgx"),), (), id="isgx"),
        pytest.param(SIMULATED, (), (), id="simulated"),
        pytest.param(Inventory(), (), (), id="nothing"),
    ],
)
def test_devices_are_granted_apart_and_under_both_spellings(
    inventory: Inventory, enclave: tuple[tuple[str, str], ...], provision: tuple[tuple[str, str], ...]
) -> None:
    found = by_name(inventory)
    assert found[ENCLAVE_RESOURCE].grant.devices == enclave
    assert found[PROVISION_RESOURCE].grant.devices == provision
    assert found[ENCLAVE_RESOURCE].healthy == (bool(enclave) or inventory.simulated)
    assert found[PROVISION_RESOURCE].healthy == (bool(provision) or inventory.simulated)


def test_aesm_reaches_enclaves_only_and_brings_no_environment() -> None:
    found = by_name(IN_KERNEL, Offer(aesm_directory=AESM.host_path))
    assert found[ENCLAVE_RESOURCE].grant.mounts == (AESM,)
    assert found[ENCLAVE_RESOURCE].grant.envs == {}
    assert found[PROVISION_RESOURCE].grant.mounts == ()


def test_simulated_platform_gives_the_folders_of_its_sockets_instead_of_hardware_and_each_apart() -> None:
    found = by_name(SIMULATED, Offer(aesm_directory=AESM.host_path))
    assert found[ENCLAVE_RESOURCE].grant == Grant(
        envs={"KUBENCLAVE_SIM_CPU": "/run/kubenclave/cpu/cpu.sock"},
        mounts=(AESM, Mount("/run/kubenclave/cpu", "/state/cpu")),
    )
    assert found[PROVISION_RESOURCE].grant == Grant(
        envs={"KUBENCLAVE_SIM_PROVISION": "/run/kubenclave/provision/cpu.sock"},
        mounts=(Mount("/run/kubenclave/provision", "/state/provision/cpu"),),
    )


def test_simulated_platform_without_a_provision_socket_grants_no_provisioning_key() -> None:
    found = by_name(replace(SIMULATED, provision_socket=None))
    assert found[ENCLAVE_RESOURCE].healthy
    assert not found[PROVISION_RESOURCE].healthy
    assert found[PROVISION_RESOURCE].grant == Grant()


def test_containers_find_the_sockets_where_clients_look_for_them() -> None:
    found = by_name(SIMULATED)
    assert socket_path(found[ENCLAVE_RESOURCE].grant.envs) == socket_path({})
    assert provision_socket_path(found[PROVISION_RESOURCE].grant.envs) == provision_socket_path({})


def test_limits() -> None:
    found = by_name(IN_KERNEL)
    assert [len(found[name].devices) for name in (ENCLAVE_RESOURCE, PROVISION_RESOURCE)] == [110, 110]
    found = by_name(IN_KERNEL, Offer(enclave_limit=3, provision_limit=0))
    assert [device.name for device in found[ENCLAVE_RESOURCE].devices] == ["enclave-0", "enclave-1", "enclave-2"]
    assert found[PROVISION_RESOURCE].devices == ()


def test_epc_by_the_mib_has_numa_hints_and_grants_the_enclave_device() -> None:
    epc = by_name(IN_KERNEL, Offer(epc_mode=EpcMode.DEVICES))[AZURE_EPC_RESOURCE]
    assert [(device.name, device.numa_node) for device in epc.devices] == [
        ("epc-0-0", 0),
        ("epc-0-1", 0),
        ("epc-0-2", 0),
        ("epc-1-0", 1),
        ("epc-1-1", 1),
    ]
    assert epc.grant == by_name(IN_KERNEL)[ENCLAVE_RESOURCE].grant
    assert AZURE_EPC_RESOURCE not in by_name(IN_KERNEL)


def test_epc_by_the_mib_is_refused_above_4096() -> None:
    at_most = replace(IN_KERNEL, sections=(EpcSection(0, 4097 * MIB - 1),))
    assert len(by_name(at_most, Offer(epc_mode=EpcMode.DEVICES))[AZURE_EPC_RESOURCE].devices) == 4096
    more = replace(IN_KERNEL, sections=(EpcSection(0, 4096 * MIB), EpcSection(1, MIB)))
    with pytest.raises(PlatformError) as caught:
        resources(more, Offer(epc_mode=EpcMode.DEVICES))
    assert (caught.value.code, caught.value.found) == ("deviceplugin.epc-too-large", "4097 MiB")
    assert "--epc-mode=capacity" in str(caught.value.hint)


DEVICES = {
    name: Device(name, node)
    for node, names in {0: ["a0", "a1", "a2", "a3"], 1: ["b0", "b1"], None: ["c0", "c1", "c2"]}.items()
    for name in names
}


@pytest.mark.parametrize(
    ("available", "wanted", "size", "expected"),
    [
        pytest.param(list(DEVICES), [], 2, ["b0", "b1"], id="smallest-node-that-fits"),
        pytest.param(list(DEVICES), [], 4, ["a0", "a1", "a2", "a3"], id="only-node-that-fits"),
        pytest.param(list(DEVICES), [], 5, ["a0", "a1", "a2", "a3", "b0"], id="largest-then-best-fit"),
        pytest.param(list(DEVICES), ["a3"], 2, ["a3", "a0"], id="where-wanted-ones-are"),
        pytest.param(["b0", "a1"], ["b0"], 2, ["b0", "a1"], id="elsewhere-if-need-be"),
        pytest.param(["b0"], [], 9, ["b0"], id="as-much-as-there-is"),
        pytest.param(["b0"], ["b1", "b1", "a0"], 1, ["b1", "a0"], id="wanted-come-first"),
        pytest.param(["x10", "x9"], [], 1, ["x9"], id="unknown-in-order"),
        pytest.param([], [], 0, [], id="nothing"),
    ],
)
def test_preferred_devices_share_a_numa_node(
    available: list[str], wanted: list[str], size: int, expected: list[str]
) -> None:
    assert preferred(DEVICES, available, wanted, size) == expected


def plugin_of(inventory: Inventory, offer: Offer | None = None, name: str = ENCLAVE_RESOURCE) -> ResourcePlugin:
    return ResourcePlugin(by_name(inventory, offer)[name], counter())


def request(*names: str) -> pb.AllocateRequest:
    return pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=names)])


def test_allocate_answers_in_the_words_of_the_protocol() -> None:
    answers = counter()
    plugin = ResourcePlugin(by_name(SIMULATED, Offer(aesm_directory="/a"))[ENCLAVE_RESOURCE], answers)
    expected = pb.ContainerAllocateResponse(
        envs={"KUBENCLAVE_SIM_CPU": "/run/kubenclave/cpu/cpu.sock"},
        mounts=[
            pb.Mount(container_path="/var/run/aesmd", host_path="/a", read_only=True),
            pb.Mount(container_path="/run/kubenclave/cpu", host_path="/state/cpu", read_only=True),
        ],
    )
    assert plugin.allocate(request("enclave-0")) == pb.AllocateResponse(container_responses=[expected])
    two = pb.AllocateRequest(
        container_requests=[
            pb.ContainerAllocateRequest(devices_ids=["enclave-0"]),
            pb.ContainerAllocateRequest(devices_ids=["enclave-1", "enclave-2"]),
        ]
    )
    assert plugin.allocate(two) == pb.AllocateResponse(container_responses=[expected, expected])
    assert answers.get(ENCLAVE_RESOURCE, "granted") == 3


def test_character_devices_are_granted_for_reading_and_writing() -> None:
    (response,) = plugin_of(DCAP).allocate(request("enclave-7")).container_responses
    assert [(one.container_path, one.host_path, one.permissions) for one in response.devices] == [
        ("/dev/sgx_enclave", "/dev/sgx/enclave", "rw"),
        ("/dev/sgx/enclave", "/dev/sgx/enclave", "rw"),
    ]


@pytest.mark.parametrize("names", [["enclave-110"], ["provision-0"], ["enclave-0", "nonsense"], []])
def test_unknown_devices_are_refused(names: list[str]) -> None:
    answers = counter()
    plugin = ResourcePlugin(by_name(IN_KERNEL)[ENCLAVE_RESOURCE], answers)
    with pytest.raises(UsageError) as caught:
        plugin.allocate(request(*names))
    assert caught.value.code == "deviceplugin.unknown-device"
    assert answers.get(ENCLAVE_RESOURCE, "deviceplugin.unknown-device") == 1


def test_health_follows_the_device_node() -> None:
    plugin = plugin_of(IN_KERNEL, Offer(enclave_limit=2))
    assert plugin.healthy
    seen = plugin.changed.generation
    plugin.update(by_name(IN_KERNEL, Offer(enclave_limit=2))[ENCLAVE_RESOURCE])
    assert plugin.changed.generation == seen  # nothing new, nothing told
    plugin.update(by_name(Inventory(), Offer(enclave_limit=2))[ENCLAVE_RESOURCE])
    assert plugin.changed.generation == seen + 1
    assert [(one.ID, one.health) for one in plugin.devices().devices] == [
        ("enclave-0", "Unhealthy"),
        ("enclave-1", "Unhealthy"),
    ]
    with pytest.raises(PlatformError) as caught:
        plugin.allocate(request("enclave-0"))
    assert caught.value.code == "deviceplugin.unhealthy"
    plugin.update(by_name(DCAP, Offer(enclave_limit=2))[ENCLAVE_RESOURCE])
    assert plugin.allocate(request("enclave-0")).container_responses[0].devices[0].host_path == "/dev/sgx/enclave"


def test_epc_devices_that_vanish_are_told_as_unhealthy() -> None:
    offer = Offer(epc_mode=EpcMode.DEVICES)
    plugin = plugin_of(IN_KERNEL, offer, AZURE_EPC_RESOURCE)
    assert [one.topology.nodes[0].ID for one in plugin.devices().devices] == [0, 0, 0, 1, 1]
    plugin.update(by_name(Inventory(), offer)[AZURE_EPC_RESOURCE])
    assert {one.health for one in plugin.devices().devices} == {"Unhealthy"}
    assert plugin.size == 5


def test_preferred_allocation_over_the_protocol() -> None:
    plugin = plugin_of(IN_KERNEL, Offer(epc_mode=EpcMode.DEVICES), AZURE_EPC_RESOURCE)
    one = pb.ContainerPreferredAllocationRequest(
        available_deviceIDs=["epc-0-0", "epc-1-0", "epc-1-1"], must_include_deviceIDs=[], allocation_size=2
    )
    answer = plugin.preferred(pb.PreferredAllocationRequest(container_requests=[one, one]))
    assert [list(each.deviceIDs) for each in answer.container_responses] == [["epc-1-0", "epc-1-1"]] * 2


def test_list_too_long_for_a_kubelet_is_refused_in_good_health_already() -> None:
    assert len(plugin_of(IN_KERNEL, Offer(enclave_limit=100_000)).devices().devices) == 100_000
    healthy = Device("x" * 63)
    size = pb.ListAndWatchResponse(devices=[pb.Device(ID=healthy.name, health="Healthy")]).ByteSize()
    just_fits_in_good_health = tuple(Device(f"{n:063}") for n in range(MAX_LIST // size))
    with pytest.raises(PlatformError) as caught:
        ResourcePlugin(Resource("a/b", "s", just_fits_in_good_health, True, Grant()), counter())
    assert caught.value.code == "deviceplugin.list-too-long"
