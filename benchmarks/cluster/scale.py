# SPDX-License-Identifier: Apache-2.0
"""A thousand nodes of mixed pools, played by kwok, and twenty thousand EPC pods for the real scheduler."""

from collections.abc import Iterator
from typing import Final

from benchmarks.figures import Budget, Figure, Unit
from benchmarks.timing import Effort
from tests.cluster import fleet
from tests.cluster.harness.cluster import Cluster

NODES: Final = 1000
PODS: Final = 20_000
DEMAND: Final = 0.9
"""Of all EPC: pods can be placed, and a scheduler that did not count would over-commit."""
QUICK: Final = 20
"""A short run is so many times smaller."""
NONE: Final = Budget(limit=0)


def measure(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Place all pods once, with the policies at work."""
    smaller = QUICK if effort == Effort.quick() else 1
    nodes = fleet.nodes(NODES // smaller)
    pods = fleet.pods(nodes, PODS // smaller, DEMAND)
    with fleet.admission(cluster), fleet.played(cluster, nodes) as api:
        found, created, judged = fleet.fill(api, pods)
    name = f"{len(nodes)} nodes, {len(pods)} EPC pods"
    yield Figure(f"{name}: created in", Unit.SECONDS, (created,))
    yield Figure(f"{name}: scheduled in", Unit.SECONDS, (judged,))
    yield Figure(f"{name}: rate", Unit.PER_SECOND, (found.scheduled / judged,))
    yield Figure(f"{name}: scheduled", Unit.COUNT, (found.scheduled,))
    yield Figure(f"{name}: nodes over-committed", Unit.COUNT, (len(found.over_committed),), budget=NONE)
    yield Figure(f"{name}: EPC in use", Unit.PERCENT, (found.epc_used * 100,))
