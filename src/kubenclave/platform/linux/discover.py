# SPDX-License-Identifier: Apache-2.0
"""One look over a Linux machine, or over the part of its file system that lies under ``root``."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kubenclave.platform.base import CpuFacts, EpcSection, EpcSource, Inventory, MachineFacts
from kubenclave.platform.linux import driver

_NODE = re.compile(r"node([0-9]{1,5})")
_BYTES = re.compile(r"[0-9]{1,18}")


class LinuxPlatform:
    """SGX hardware through the kernel's files below ``root``.

    ``lstat`` and ``read_cpu`` stand in for device nodes and CPUID where a test cannot make them.

    The kernel's EPC sizes win. Where it tells none but has a driver (5.11 to 5.16, Intel's driver), CPUID does: that of
    the processor under us, whatever ``root`` is, for a pod sees the machine's files somewhere else.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        lstat: driver.Stat = os.lstat,
        read_cpu: Callable[[Path], CpuFacts | None] | None = None,
    ) -> None:
        self._root = root
        self._lstat = lstat
        self._read_cpu = read_cpu

    def inventory(self) -> Inventory:
        """Return driver, device nodes and EPC as they are now. Raises nothing: what cannot be read is absent."""
        nodes = driver.device_nodes(self._root, self._lstat)
        sections = epc_sections(self._root)
        source = EpcSource.SYSFS if sections else EpcSource.NONE
        if not sections and (cpu := self._cpu(ask=True)) is not None and cpu.sections:
            sections = tuple(EpcSection(None, size) for _, size in cpu.sections)
            source = EpcSource.CPUID
        return Inventory(driver=driver.flavour(self._root, nodes), nodes=nodes, sections=sections, epc_source=source)

    def machine(self) -> MachineFacts:
        """Return what stays as it is while the machine runs."""
        from kubenclave.platform.linux import kernel  # noqa: PLC0415  # for the doctor, not for the node agent

        release = kernel.release(self._root)
        model, flags = kernel.cpu_flags(self._root)
        return MachineFacts(
            cpu=self._cpu(ask=self._root == Path("/")),  # the files of another machine are not about this processor
            cpu_model=model,
            cpu_flags=flags,
            kernel_release=release,
            kernel_sgx=kernel.config_sgx(self._root, release),
            system=kernel.system_name(self._root),
            registered=driver.registered_devices(self._root),
        )

    def _cpu(self, *, ask: bool) -> CpuFacts | None:
        path = self._root / "dev/cpu/0/cpuid"
        if self._read_cpu is not None:
            return self._read_cpu(path)
        from kubenclave.platform.linux import cpuid  # noqa: PLC0415  # only where the kernel does not tell the sizes

        return cpuid.read_device(path) or (cpuid.ask() if ask else None)


def epc_sections(root: Path) -> tuple[EpcSection, ...]:
    """Return the EPC of each NUMA node that has some, by node number, as the driver accepted it (Linux 5.17 on)."""
    found = []
    for path in (root / "sys/devices/system/node").glob("node*/x86/sgx_total_bytes"):
        node = _NODE.fullmatch(path.parent.parent.name)
        with suppress(OSError, UnicodeDecodeError):
            size = path.read_text(encoding="utf-8").strip()
            if node and _BYTES.fullmatch(size) and int(size):
                found.append(EpcSection(int(node[1]), int(size)))
    return tuple(sorted(found, key=lambda section: section.numa_node or 0))
