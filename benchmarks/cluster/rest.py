# SPDX-License-Identifier: Apache-2.0
"""What a node costs when nothing happens: the agent's calls of the API server, and memory of the add-on's processes."""

import time
from collections.abc import Iterator
from typing import Final

from benchmarks import daemons, peers
from benchmarks.cluster.processes import running
from benchmarks.figures import Budget, Figure, Peer, Unit
from benchmarks.node import resident
from benchmarks.timing import Effort
from tests.chart import NAMESPACE
from tests.cluster import release
from tests.cluster.harness.cluster import Cluster

AGENT: Final = f"system:serviceaccount:{NAMESPACE}:kubenclave-node-agent"
SETTLE: Final = 30.0
SHORTEST: Final = 90.0
"""Seconds: longer than the pause between two looks at the Node."""
FLEET: Final = 1000
MEMORY: Final = Budget(limit=32)


def measure(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Count for minutes on an idle node (SIMULATED SGX)."""
    with release.installed(cluster, release.SIMULATED):
        time.sleep(SETTLE)
        before, begin = _calls(cluster), time.monotonic()
        if not before:
            raise RuntimeError("the audit log knows nothing of an agent that has published its node")
        time.sleep(max(SHORTEST, 60 * effort.seconds))
        per_minute = (_calls(cluster) - before) / (time.monotonic() - begin) * 60
        yield Figure("node agent at rest: API calls", Unit.PER_MINUTE, (per_minute,))
        name = f"{FLEET} such agents: API calls (computed)"
        yield Figure(name, Unit.PER_SECOND, (per_minute * FLEET / 60,))
        theirs = () if peers.absent() else (daemons.intels(),)
        for module, component in (("kubenclave.node.agent", "node agent"), ("kubenclave.node.helper", "quote helper")):
            peer = Peer("Intel plugin + epchook", theirs, peers.absent()) if component == "node agent" else None
            runs = tuple(map(resident, running(module)))
            yield Figure(f"memory in a pod at rest: {component}", Unit.MEBIBYTES, runs, peer, MEMORY)


def _calls(cluster: Cluster) -> int:
    return sum(event["user"].get("username") == AGENT for event in cluster.audit())
