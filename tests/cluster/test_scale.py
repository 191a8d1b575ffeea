# SPDX-License-Identifier: Apache-2.0
"""The real scheduler over mixed pools that are asked for more EPC than they have. 1 000 nodes: make bench-cluster."""

import pytest

from tests.cluster import fleet
from tests.cluster.harness.progress import say
from tools.kubernetes.build import TOOLS, built

NODES, PODS = 100, 1000

pytestmark = pytest.mark.skipif(not built(TOOLS["kwok"]), reason="kwok is not built: make cluster-tools")


def test_no_node_is_over_committed_and_no_room_is_left_unused(cluster):
    nodes = fleet.nodes(NODES)
    with fleet.admission(cluster), fleet.played(cluster, nodes) as api:
        found, created, judged = fleet.fill(api, fleet.pods(nodes, PODS, demand=1.3))
        say(f"{PODS} pods created in {created:.0f} s, judged after {judged:.0f} s: {found}")
        assert found.over_committed == ()
        assert found.misplaced == ()
        assert found.scheduled + found.pending == PODS
        assert found.pending > 0
        assert found.smallest_pending > found.largest_room  # whoever waits, waits for a reason
