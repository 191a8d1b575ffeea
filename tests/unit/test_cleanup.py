# SPDX-License-Identifier: Apache-2.0
"""Nodes after an uninstallation are as they were before the installation."""

import asyncio
import copy
from typing import Any

import pytest

from kubenclave.cluster import cleanup
from kubenclave.cluster.api import CONFLICT, NODES, NOT_FOUND, Listing
from kubenclave.errors import ClusterError
from kubenclave.node.api import JSON_PATCH
from kubenclave.node.reconcile import Wishes
from tests.node_objects import RefusedError, new_node, patched
from tests.unit.test_reconcile import TAINT, facts, hardware, publish, simulated, tainted


class Api:
    """Nodes, and agents that end after a number of looks."""

    def __init__(self, *nodes: dict[str, Any], agents: int = 0) -> None:
        self.nodes = {node["metadata"]["name"]: node for node in nodes}
        self.agents = agents
        self.patches = 0
        self.moved = False

    async def list(self, kind, *, namespace=None, labels=None, **_more):
        if kind is NODES:
            return Listing([copy.deepcopy(node) for node in self.nodes.values()], "1")
        assert (namespace, labels) == ("ours", cleanup.AGENTS)
        self.agents -= 1
        return Listing([{}] if self.agents >= 0 else [], "1")

    async def get(self, kind, name, **_more):
        return copy.deepcopy(self.nodes[name])

    async def patch(self, kind, name, change, *, subresource=None):
        self.patches += 1
        if name not in self.nodes:
            raise ClusterError("gone", code=NOT_FOUND)
        if self.moved:
            self.moved = False
            self.nodes[name]["spec"]["taints"].insert(0, {"key": "new"})
        try:
            self.nodes[name] = patched(self.nodes[name], JSON_PATCH, change, status=subresource == "status")
        except RefusedError as error:
            raise ClusterError("moved", code=CONFLICT) from error


def clean(api: Any, patience: float = 5) -> int:
    return asyncio.run(cleanup.clean(api, namespace="ours", taint=TAINT, patience=patience))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cleanup, "_PAUSE", 0.01)


def bare(node: dict[str, Any]) -> dict[str, Any]:
    node["metadata"].setdefault("annotations", {})
    return node


@pytest.mark.parametrize("inventory", [hardware(64), simulated(64)])
def test_a_node_is_as_before(inventory):
    api = Api(publish(facts(inventory, aesm=True), new_node()), new_node("plain-1"))
    assert clean(api) == 1
    assert api.nodes == {"sgx-1": bare(new_node()), "plain-1": new_node("plain-1")}
    assert clean(api) == 0


def test_the_startup_taint_goes_and_labels_of_others_stay():
    node = tainted()
    node["metadata"]["labels"] |= {
        "intel.feature.node.kubernetes.io/sgx": "true",
        "kubenclave.dev/sgx-node": "true",
    }
    before = copy.deepcopy(node)
    api = Api(publish(facts(hardware(64)), node, Wishes(startup_taint=TAINT)))
    clean(api)
    after = api.nodes["sgx-1"]
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    assert [taint["key"] for taint in after["spec"]["taints"]] == ["a", "b"]


def test_a_list_that_moves_meanwhile_is_read_again():
    api = Api(publish(facts(hardware(64)), tainted()))
    api.moved = True
    assert clean(api) == 1
    assert [taint["key"] for taint in api.nodes["sgx-1"]["spec"]["taints"]] == ["new", "a", "b"]


def test_a_node_that_goes_meanwhile_is_no_trouble():
    class Stale(Api):
        async def list(self, kind, **more):
            found = await super().list(kind, **more)
            if kind is NODES:
                self.nodes.clear()
            return found

    assert clean(Stale(publish(facts(hardware(64)), new_node()))) == 0


def test_agents_have_to_be_gone_first():
    api = Api(publish(facts(hardware(64)), new_node()), agents=3)
    assert clean(api) == 1
    api = Api(publish(facts(hardware(64)), new_node()), agents=1000)
    with pytest.raises(ClusterError) as caught:
        clean(api, patience=0.05)
    assert caught.value.code == "cleanup.agents-run"
    assert api.patches == 0
