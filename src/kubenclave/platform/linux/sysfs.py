# SPDX-License-Identifier: Apache-2.0
"""EPC per NUMA node as the in-kernel driver accepted it (Linux 5.17 and later)."""

import re
from pathlib import Path

from kubenclave.platform.base import EpcSection
from kubenclave.platform.linux.files import read_text

_NODE = re.compile(r"node([0-9]{1,5})")
_BYTES = re.compile(r"[0-9]{1,18}")


def epc_sections(root: Path) -> tuple[EpcSection, ...]:
    """Return the EPC of each NUMA node that has some, by node number."""
    found = []
    for path in (root / "sys/devices/system/node").glob("node*/x86/sgx_total_bytes"):
        node = _NODE.fullmatch(path.parent.parent.name)
        size = (read_text(path) or "").strip()
        if node and _BYTES.fullmatch(size) and int(size):
            found.append(EpcSection(int(node[1]), int(size)))
    return tuple(sorted(found, key=lambda section: section.numa_node or 0))
