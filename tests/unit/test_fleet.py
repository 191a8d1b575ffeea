# SPDX-License-Identifier: Apache-2.0
"""The accountant of the fleet sees what it is there to see: it would be the only one to notice."""

from kubenclave.cluster.admission import admit
from kubenclave.sgx.epc import EPC_RESOURCE, MIB
from tests.cluster import fleet


def node(name, mib):
    ready = [{"type": "Ready", "status": "True"}]
    status = {"allocatable": {EPC_RESOURCE: f"{mib}Mi"}, "conditions": ready}
    return {"metadata": {"name": name, "labels": {}}, "spec": {"taints": []}, "status": status}


def pod(mib, where=None, *, admitted=True):
    made = fleet._pod(1, mib)
    made = admit(made).pod if admitted else made
    if where:
        made["spec"]["nodeName"] = where
    return made


def test_a_node_with_more_requested_than_it_has_is_named():
    found = fleet.outcome([node("a", 10), node("b", 10)], [pod(6, "a"), pod(5, "a"), pod(10, "b")])
    assert found.over_committed == ("a",)
    assert found.scheduled == 3


def test_a_full_node_is_not_over_committed():
    found = fleet.outcome([node("a", 10)], [pod(4, "a"), pod(6, "a"), pod(1)])
    assert found.over_committed == ()
    assert (found.scheduled, found.pending, found.largest_room, found.smallest_pending) == (2, 1, 0, MIB)
    assert found.epc_used == 1


def test_a_pod_that_admission_missed_is_named():
    assert fleet.outcome([node("a", 10)], [pod(4, "a", admitted=False)]).misplaced == ("azure-1",)


def test_pods_of_both_dialects_ask_together_for_the_demand():
    nodes = fleet.nodes(50)
    pods = fleet.pods(nodes, 500, demand=0.9)
    asked = sum(admit(each).epc for each in pods)
    there = sum(fleet._epc(each["status"]["allocatable"]) for each in nodes)
    assert 0.85 < asked / there < 0.95
    assert len({each["metadata"]["name"] for each in pods}) == 500
