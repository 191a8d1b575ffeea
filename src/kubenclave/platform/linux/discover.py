# SPDX-License-Identifier: Apache-2.0
"""One look over a Linux machine, or over the part of its file system that lies under ``root``."""

import os
from collections.abc import Callable
from pathlib import Path

from kubenclave.platform.base import CpuFacts, EpcSection, EpcSource, Inventory, MachineFacts
from kubenclave.platform.linux import cpuid, driver, sysfs


class LinuxPlatform:
    """SGX hardware through the kernel's files below ``root``.

    ``lstat`` and ``read_cpu`` stand in for device nodes and CPUID where a test cannot make them.

    The kernel's EPC sizes win. Where it tells none but has a driver (5.11 to 5.16, Intel's driver), CPUID does.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        lstat: driver.Stat = os.lstat,
        read_cpu: Callable[[Path], CpuFacts | None] = cpuid.read_device,
    ) -> None:
        self._root = root
        self._lstat = lstat
        self._read_cpu = read_cpu

    def inventory(self) -> Inventory:
        """Return driver, device nodes and EPC as they are now. Raises nothing: what cannot be read is absent."""
        nodes = driver.device_nodes(self._root, self._lstat)
        sections = sysfs.epc_sections(self._root)
        source = EpcSource.SYSFS if sections else EpcSource.NONE
        if not sections and (cpu := self._cpu()) is not None and cpu.sections:
            sections = tuple(EpcSection(None, size) for _, size in cpu.sections)
            source = EpcSource.CPUID
        return Inventory(driver=driver.flavour(self._root, nodes), nodes=nodes, sections=sections, epc_source=source)

    def machine(self) -> MachineFacts:
        """Return what stays as it is while the machine runs."""
        from kubenclave.platform.linux import kernel  # noqa: PLC0415  # for the doctor, not for the node agent

        release = kernel.release(self._root)
        model, flags = kernel.cpu_flags(self._root)
        return MachineFacts(
            cpu=self._cpu(),
            cpu_model=model,
            cpu_flags=flags,
            kernel_release=release,
            kernel_sgx=kernel.config_sgx(self._root, release),
            system=kernel.system_name(self._root),
            registered=driver.registered_devices(self._root),
        )

    def _cpu(self) -> CpuFacts | None:
        return self._read_cpu(self._root / "dev/cpu/0/cpuid")
