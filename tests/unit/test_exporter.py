# SPDX-License-Identifier: Apache-2.0
"""What the exporter remembers, and what it makes of it."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kubenclave.cluster.api import Event, Listing
from kubenclave.cluster.epc import pod_epc
from kubenclave.cluster.exporter.daemon import capacity_map
from kubenclave.cluster.exporter.figures import Figures
from kubenclave.cluster.exporter.view import View, reduced

EPC = "sgx.intel.com/epc"
MIB = 1 << 20


def node(name="a", epc="128Mi", ready="True", **labels):
    amounts = {EPC: epc, "sgx.intel.com/enclave": "10"}
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "SGXReady", "status": ready}]}
    return {"metadata": {"name": name, "labels": labels}, "status": status}


def pod(name="p", where="a", epc="64Mi", namespace="n", phase="Running"):
    spec = {"nodeName": where, "containers": [{"name": "c", "resources": {"limits": {EPC: epc}}}]}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec, "status": {"phase": phase}}


def view(nodes=(), pods=()):
    made = View()
    made.nodes.see(Listing(list(nodes), "1"))
    made.pods.see(Listing(list(pods), "1"))
    return made


def figures(of, *, per_pod=True):
    text = Figures(of, per_pod=per_pod).render().decode()
    return {
        (sample.name.removeprefix("kubenclave_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_nothing_is_known_before_the_lists():
    made = View()
    assert made.missing == "not read yet: nodes, pods"
    made.nodes.see(Listing([], "1"))
    assert made.missing == "not read yet: pods"
    made.pods.see(Listing([], "1"))
    assert made.missing is None


def test_a_list_replaces_and_events_change():
    made = view(pods=[pod("one"), pod("two")])
    made.pods.see(Listing([pod("two")], "2"))
    assert made.requested() == {"a": 64 * MIB}
    made.pods.see(Event("ADDED", pod("three")))
    made.pods.see(Event("MODIFIED", pod("two", phase="Succeeded")))
    made.pods.see(Event("DELETED", pod("never", phase="Succeeded")))
    assert [name for _, name in made.pods.held] == ["three"]
    made.pods.see(Event("DELETED", pod("three")))
    assert made.requested() == {}


def test_a_node_in_figures():
    found = figures(view([node(**{"kubenclave.dev/simulated": "true"})], [pod(), pod("waits", None, "1Gi")]))
    assert found["node_epc_capacity_bytes", "a"] == 128 * MIB
    assert found["node_epc_requested_bytes", "a"] == found["node_epc_free_bytes", "a"] == 64 * MIB
    assert found["node_epc_overcommitted_bytes", "a"] == found["node_epc_withdrawn_bytes", "a"] == 0
    assert found["node_enclave_devices", "a"] == 10
    assert found["node_sgx_ready", "a"] == found["node_simulated", "a"] == 1
    assert found["epc_pending_bytes",] == 1 << 30
    assert found["pod_epc_requested_bytes", "n", "waits", ""] == 1 << 30


def test_promised_beyond_capacity_and_withdrawn_under_pods_are_told_apart():
    over = figures(view([node(epc="32Mi")], [pod()]))
    assert over["node_epc_overcommitted_bytes", "a"] == 32 * MIB
    assert over["node_epc_withdrawn_bytes", "a"] == over["node_epc_free_bytes", "a"] == 0
    gone = figures(view([node(epc="0", ready="False")], [pod()]))
    assert gone["node_epc_overcommitted_bytes", "a"] == 0
    assert gone["node_epc_withdrawn_bytes", "a"] == 64 * MIB
    assert gone["node_sgx_ready", "a"] == 0


def test_nodes_without_sgx_have_no_series_and_pods_none_where_nobody_wants_them():
    found = figures(view([{"metadata": {"name": "plain"}, "status": {}}], [pod()]), per_pod=False)
    assert not any("plain" in key for key in found)
    assert not any(key[0] == "pod_epc_requested_bytes" for key in found)
    assert found["namespace_epc_requested_bytes", "n"] == 64 * MIB


def test_what_is_gone_leaves_no_series():
    made = view([node()], [pod()])
    told = Figures(made, per_pod=True)
    told.render()
    made.nodes.see(Listing([], "2"))
    made.pods.see(Listing([], "2"))
    text = told.render().decode()
    assert 'node="a"' not in text
    assert "kubenclave_epc_largest_node_bytes 0\n" in text


def test_the_largest_node_is_written_in_bytes():
    made = view([node(), node("b", "1Gi")])
    assert capacity_map("kubenclave", made.largest)["data"] == {"largestNodeEpc": str(1 << 30)}


@given(st.lists(st.tuples(st.sampled_from(["init", "sidecar", "main"]), st.integers(0, 1 << 40)), max_size=6))
def test_a_reduced_pod_takes_as_much_as_the_whole(shape):
    made = pod()
    made["spec"]["containers"] = []
    made["spec"]["initContainers"] = []
    for kind, size in shape:
        container = {"name": "x", "image": "i", "resources": {"limits": {EPC: str(size)}}}
        if kind == "sidecar":
            container["restartPolicy"] = "Always"
        made["spec"]["containers" if kind == "main" else "initContainers"].append(container)
    less = reduced(made)
    assert (None if less is None else pod_epc(less)) == pod_epc(made)
