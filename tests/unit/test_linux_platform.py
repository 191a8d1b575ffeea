# SPDX-License-Identifier: Apache-2.0
"""Discovery on made-up file systems: each driver that ever was, and each thing that may be absent."""

import gzip
import os
import stat
from pathlib import Path

import pytest

from kubenclave.platform.base import (
    CpuFacts,
    DeviceKind,
    DeviceNode,
    DriverFlavour,
    EpcSection,
    EpcSource,
    MachineFacts,
)
from kubenclave.platform.linux import cpuid, kernel
from kubenclave.platform.linux.discover import LinuxPlatform


class FakeRoot:
    """A file system below a folder, whose device nodes are files holding ``major minor mode uid gid``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.platform = LinuxPlatform(root, lstat=self.lstat, read_cpu=cpuid.read_device)

    def write(self, path: str, text: str = "") -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def link(self, path: str, target: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def device(self, path: str, minor: int, mode: int = 0o666, gid: int = 0) -> None:
        self.write(path, f"10 {minor} {mode} 0 {gid}")

    def lstat(self, path: Path) -> os.stat_result:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or not path.read_text().startswith("10 "):
            return status
        major, minor, mode, uid, gid = map(int, path.read_text().split())
        extra = {"st_rdev": os.makedev(major, minor)}
        return os.stat_result((stat.S_IFCHR | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0), extra)


@pytest.fixture
def fake(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path)


def test_empty_machine_has_nothing_and_knows_nothing(fake: FakeRoot) -> None:
    inventory = fake.platform.inventory()
    assert (inventory.driver, inventory.nodes, inventory.sections) == (DriverFlavour.NONE, (), ())
    assert (inventory.epc_source, inventory.epc_bytes) == (EpcSource.NONE, 0)
    assert not inventory.offers(DeviceKind.ENCLAVE)
    assert fake.platform.machine() == MachineFacts()


def test_in_kernel_driver_with_udev_symlinks(fake: FakeRoot) -> None:
    fake.device("dev/sgx_enclave", 125, 0o660, gid=110)
    fake.device("dev/sgx_provision", 126, 0o600)
    fake.device("dev/sgx_vepc", 124)
    fake.link("dev/sgx/enclave", "../sgx_enclave")
    fake.link("dev/sgx/provision", "/dev/sgx_provision")
    inventory = fake.platform.inventory()
    assert inventory.driver is DriverFlavour.IN_KERNEL
    assert inventory.nodes == (
        DeviceNode("/dev/sgx_enclave", DeviceKind.ENCLAVE, 10, 125, 0o660, 0, 110),
        DeviceNode("/dev/sgx_provision", DeviceKind.PROVISION, 10, 126, 0o600, 0, 0),
        DeviceNode("/dev/sgx_vepc", DeviceKind.VEPC, 10, 124, 0o666, 0, 0),
    )
    assert inventory.offers(DeviceKind.PROVISION)


def test_dcap_driver_with_a_real_directory_as_on_ubuntu_18_04(fake: FakeRoot) -> None:
    fake.device("dev/sgx/enclave", 58)
    fake.device("dev/sgx/provision", 57, 0o660, gid=998)
    inventory = fake.platform.inventory()
    assert inventory.driver is DriverFlavour.DCAP
    assert [(node.path, node.minor) for node in inventory.nodes] == [
        ("/dev/sgx/enclave", 58),
        ("/dev/sgx/provision", 57),
    ]


def test_dcap_module_under_the_names_of_the_kernel(fake: FakeRoot) -> None:
    fake.device("dev/sgx_enclave", 58)
    (fake.root / "sys/module/intel_sgx").mkdir(parents=True)
    assert fake.platform.inventory().driver is DriverFlavour.DCAP


@pytest.mark.parametrize("target", ["../sgx_enclave_real", "/dev/sgx_enclave_real"])
def test_symlinks_are_followed_below_the_root(fake: FakeRoot, target: str) -> None:
    fake.device("dev/sgx_enclave_real", 77)
    fake.link("dev/sgx/enclave", target)
    (node,) = fake.platform.inventory().nodes
    assert (node.path, node.minor) == ("/dev/sgx_enclave_real", 77)
    assert fake.platform.inventory().driver is DriverFlavour.IN_KERNEL


def test_isgx_serves_enclaves_only(fake: FakeRoot) -> None:
    fake.device("dev/isgx", 55)
    inventory = fake.platform.inventory()
    assert inventory.driver is DriverFlavour.ISGX
    assert [node.path for node in inventory.nodes] == ["/dev/isgx"]
    assert not inventory.offers(DeviceKind.PROVISION)


def test_what_is_no_character_device_is_no_device(fake: FakeRoot) -> None:
    fake.write("dev/sgx_enclave", "a file")
    (fake.root / "dev/sgx").mkdir()
    fake.link("dev/sgx/enclave", "enclave")  # in a circle
    fake.link("dev/sgx/provision", "nowhere")
    assert fake.platform.inventory().nodes == ()


def test_real_character_devices_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    try:
        os.mknod(tmp_path / "dev/sgx_enclave", stat.S_IFCHR | 0o660, os.makedev(10, 125))
    except PermissionError:
        pytest.skip("making device nodes needs root")
    (node,) = LinuxPlatform(tmp_path).inventory().nodes
    assert (node.major, node.minor, node.path) == (10, 125, "/dev/sgx_enclave")


def test_epc_of_each_numa_node_comes_from_sysfs(fake: FakeRoot) -> None:
    for node, text in {10: "4096\n", 1: "68178411520\n", 0: "68178411520\n", 2: "0\n", 3: "-1", 4: "lots"}.items():
        fake.write(f"sys/devices/system/node/node{node}/x86/sgx_total_bytes", text)
    fake.write("sys/devices/system/node/nodeX/x86/sgx_total_bytes", "4096")
    inventory = fake.platform.inventory()
    assert inventory.sections == (EpcSection(0, 68178411520), EpcSection(1, 68178411520), EpcSection(10, 4096))
    assert inventory.epc_source is EpcSource.SYSFS
    assert inventory.epc_bytes == 2 * 68178411520 + 4096


@pytest.mark.parametrize(
    ("cpu", "sections", "source"),
    [
        (
            CpuFacts(True, True, True, True, ((0, 8192), (1 << 40, 4096))),
            (EpcSection(None, 8192), EpcSection(None, 4096)),
            EpcSource.CPUID,
        ),
        (CpuFacts(True, True, False, False, ()), (), EpcSource.NONE),
        (None, (), EpcSource.NONE),
    ],
)
def test_without_sysfs_cpuid_tells_the_size(
    tmp_path: Path, cpu: CpuFacts | None, sections: tuple[EpcSection, ...], source: EpcSource
) -> None:
    inventory = LinuxPlatform(tmp_path, read_cpu=lambda path: cpu).inventory()
    assert (inventory.sections, inventory.epc_source) == (sections, source)


def test_machine_facts(fake: FakeRoot) -> None:
    fake.write(
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu sgx sgx_lc\n\nprocessor\t: 1\nmodel name\t: Other\n",
    )
    fake.write("proc/sys/kernel/osrelease", "5.4.0-1098-azure\n")
    fake.write("boot/config-5.4.0-1098-azure", "CONFIG_X86=y\n# CONFIG_X86_SGX is not set\n")
    fake.write("etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 18.04.6 LTS"\n')
    (fake.root / "sys/class/misc/sgx_enclave").mkdir(parents=True)
    assert fake.platform.machine() == MachineFacts(
        cpu=None,
        cpu_model="Xeon",
        cpu_flags=frozenset({"fpu", "sgx", "sgx_lc"}),
        kernel_release="5.4.0-1098-azure",
        kernel_sgx=False,
        system="Ubuntu 18.04.6 LTS",
        registered=frozenset({"sgx_enclave"}),
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [("CONFIG_X86_SGX=y\nCONFIG_X86_SGX_KVM=y\n", True), ("CONFIG_X86_SGX_KVM=y\n", False), ("", False)],
)
def test_kernel_configuration_in_proc(fake: FakeRoot, config: str, expected: bool) -> None:
    fake.write("proc/config.gz")
    (fake.root / "proc/config.gz").write_bytes(gzip.compress(config.encode()))
    assert kernel.config_sgx(fake.root, "6.8.0") is expected
    assert kernel.config_sgx(fake.root, None) is expected


def test_broken_kernel_configuration_tells_nothing(fake: FakeRoot) -> None:
    fake.write("proc/config.gz", "not gzip")
    assert kernel.config_sgx(fake.root, None) is None


@pytest.mark.parametrize(
    ("text", "version"), [("5.15.0-1040-azure", (5, 15)), ("6.8", (6, 8)), ("next-20240101", None), ("", None)]
)
def test_kernel_version(text: str, version: tuple[int, int] | None) -> None:
    assert kernel.version(text) == version


def test_system_name_in_usr_lib(fake: FakeRoot) -> None:
    fake.write("etc/os-release", "NAME=Minimal\n")
    fake.write("usr/lib/os-release", "PRETTY_NAME=Talos\n")
    assert kernel.system_name(fake.root) == "Talos"
