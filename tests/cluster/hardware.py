# SPDX-License-Identifier: Apache-2.0
"""SGX hardware of a test node as its programs see it: device nodes, and EPC in the kernel's files."""

from kubenclave.sgx.epc import MIB
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.node import Node
from tests.cluster.release import EPC, TEST_IMAGE, Values

LABEL = "kubenclave.dev/sgx-node"
TAINT = "startup-taint.cluster-autoscaler.kubernetes.io/sgx"

VALUES: Values = {
    "image": TEST_IMAGE,
    "admission": {"mode": "auto"},
    "quoteHelper": {"enabled": False},
    "exporter": {"enabled": False},
}
"""The add-on on hardware, without what these tests do not need."""

_FOLDER = "/sys/devices/system/node"


def give(cluster: Cluster, node: Node, mib: int) -> None:
    """Give a node SGX: devices, EPC on NUMA node 0, and the label of a pool."""
    node.make_sgx_devices()
    steps = (
        f"if mountpoint -q {_FOLDER}; then umount {_FOLDER}; fi",
        "rm -rf /run/numa && mkdir /run/numa",
        f"cp -a {_FOLDER}/. /run/numa/ 2>/dev/null || true",  # some of the kernel's files cannot be read
        "mkdir -p /run/numa/node0/x86",
        f"echo {mib * MIB} > /run/numa/node0/x86/sgx_total_bytes",
        f"mount --bind /run/numa {_FOLDER}",
    )
    node.run("sh", "-ec", "\n".join(steps))
    cluster.kubectl("label", "node", node.name, f"{LABEL}=true", "--overwrite")


def take(cluster: Cluster, node: Node) -> None:
    """Take it away again."""
    node.remove_sgx_devices()
    node.run("sh", "-c", f"if mountpoint -q {_FOLDER}; then umount {_FOLDER}; fi")
    cluster.kubectl("label", "node", node.name, f"{LABEL}-")


def epc(cluster: Cluster, node: str, field: str = "allocatable") -> int | None:
    """EPC of a node in bytes; None where there is no such resource."""
    found = cluster.get("node", node)["status"][field].get(EPC)
    return None if found is None else int(_plain(found))


def _plain(amount: str) -> int:
    return int(amount[:-2]) << {"Ki": 10, "Mi": 20, "Gi": 30}[amount[-2:]] if amount.endswith("i") else int(amount)
