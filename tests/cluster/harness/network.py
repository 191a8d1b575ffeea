# SPDX-License-Identifier: Apache-2.0
"""The network of a test cluster: one bridge inside the enclosure's network namespace.

Control plane and kubelets have an address each on the bridge, pods are attached to it by the CNI bridge plugin, each
node with a range of its own. Nothing leads out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tests.cluster.harness.parts import run

BRIDGE: Final = "kubenclave0"
NETWORK: Final = "10.88.0.0/16"
CONTROL_PLANE: Final = "10.88.0.1"
SERVICES: Final = "10.96.0.0/16"
KUBERNETES_SERVICE: Final = "10.96.0.1"

# Packets between pods of one bridge pass the nat table (bridge-nf), else answers from behind a Service come from a
# stranger; packets to a Service leave by the interface they came in on, which calls for no redirect.
_SETTINGS: Final = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/bridge/bridge-nf-call-iptables": "1",
}


def node_address(number: int) -> str:
    """The kubelet's address of node 1, 2, ..."""
    return f"10.88.0.{10 + number}"


def make(nodes: int) -> None:
    """Make the bridge with the addresses of the control plane and of so many nodes. Raises HarnessError."""
    run(["ip", "link", "set", "lo", "up"])
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    for address in [CONTROL_PLANE, *(node_address(n + 1) for n in range(nodes))]:
        run(["ip", "address", "add", f"{address}/16", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    for name, value in _SETTINGS.items():
        (Path("/proc/sys") / name).write_text(value)


def cni(number: int) -> str:
    """The CNI configuration of node 1, 2, ...: 254 pod addresses on the bridge."""
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "kubenclave-test",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": BRIDGE,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [
                            [
                                {
                                    "subnet": NETWORK,
                                    "rangeStart": f"10.88.{number}.1",
                                    "rangeEnd": f"10.88.{number}.254",
                                    "gateway": CONTROL_PLANE,
                                }
                            ]
                        ],
                        "routes": [{"dst": "0.0.0.0/0", "gw": CONTROL_PLANE}],
                    },
                },
            ],
        }
    )
