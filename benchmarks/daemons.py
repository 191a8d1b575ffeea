# SPDX-License-Identifier: Apache-2.0
"""Resident memory at rest and start time of each daemon."""

import time
from collections.abc import Iterator
from typing import Final

from benchmarks import node, peers
from benchmarks.figures import Budget, Figure, Peer, Unit
from benchmarks.timing import Effort

NODE_BUDGET: Final = Budget(limit=32)
REST: Final = 1.0
"""Seconds without work before memory is looked at."""


def measure(effort: Effort) -> Iterator[Figure]:
    """Start a node a few times and look at each daemon, in turn with Intel's."""
    memory: dict[str, list[float]] = {}
    start: dict[str, list[float]] = {}
    theirs: list[float] = []
    for _ in range(effort.runs):
        with (
            node.places() as where,
            node.simulator(where) as simulator,
            node.quote_helper(where) as helper,
            node.kubelet(where) as plugin_is_there,
            node.agent(where) as agent,
        ):
            plugin_is_there()
            time.sleep(REST)
            for name, daemon in (("node agent", agent), ("quote helper", helper), ("simulated platform", simulator)):
                memory.setdefault(name, []).append(daemon.memory())
                start.setdefault(name, []).append(daemon.ready_after)
            memory.setdefault("quote helper's workers", []).append(helper.children_memory())
        if not peers.absent():
            theirs.append(intels())
    budgets = {"node agent": NODE_BUDGET, "quote helper": NODE_BUDGET}
    for name, runs in memory.items():
        peer = Peer("Intel plugin + epchook", tuple(theirs), peers.absent()) if name == "node agent" else None
        yield Figure(f"memory at rest: {name}", Unit.MEBIBYTES, tuple(runs), peer, budgets.get(name))
    for name, runs in start.items():
        yield Figure(f"start to answer: {name}", Unit.MILLISECONDS, tuple(runs))


def intels() -> float:
    """Return the resident MiB of Intel's two daemons of a node, registered and with the node patched."""
    with (
        node.places() as where,
        node.kubelet(where) as plugin_is_there,
        peers.plugin(where) as plugin,
        peers.epchook(where) as hook,
    ):
        plugin_is_there()
        time.sleep(REST)
        return plugin.memory() + hook.memory()
