# SPDX-License-Identifier: Apache-2.0
"""EPC is counted as the scheduler counts, whatever an API server holds."""

import pytest

from kubenclave.cluster.epc import asked, node_epc, pod_epc
from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, EPC_RESOURCE, MIB


def container(name="main", restart=None, **amounts):
    names = {"epc": EPC_RESOURCE, "azure": AZURE_EPC_RESOURCE, "enclave": ENCLAVE_RESOURCE}
    made = {"name": name, "resources": {"limits": {names[key]: value for key, value in amounts.items()}}}
    return made if restart is None else {**made, "restartPolicy": restart}


def pod(*containers, init=(), node=None, phase="Running"):
    spec = {"containers": list(containers), "initContainers": list(init), "nodeName": node}
    return {"metadata": {"name": "p", "namespace": "n"}, "spec": spec, "status": {"phase": phase}}


def node(capacity, allocatable=None, **more):
    status = {"capacity": capacity, "allocatable": capacity if allocatable is None else allocatable}
    return {"metadata": {"name": "n", **more}, "status": status}


@pytest.mark.parametrize(
    ("made", "size"),
    [
        (pod(container(epc="64Mi")), 64 * MIB),
        (pod(container(epc="64Mi"), container(epc="64Mi")), 128 * MIB),
        (pod(container(azure="10")), 10 * MIB),
        (pod(container(epc="1Mi"), init=[container(epc="8Mi")]), 8 * MIB),
        (pod(container(epc="1Mi"), init=[container(epc="8Mi", restart="Always")]), 9 * MIB),
        (pod(container(epc="1Mi"), init=[container(epc="2Mi", restart="Always"), container(epc="8Mi")]), 10 * MIB),
    ],
)
def test_containers_that_run_together_add_up(made, size):
    found = pod_epc(made)
    assert found is not None
    assert found.epc == size


@pytest.mark.parametrize(
    "made",
    [
        {},
        pod(),
        pod(container()),
        pod(container(epc="64Mi"), phase="Succeeded"),
        pod(container(epc="64Mi"), phase="Failed"),
        pod(container(epc="nonsense")),
        pod({"name": "null", "resources": None}),
    ],
)
def test_pods_that_take_nothing(made):
    assert pod_epc(made) is None


def test_requests_count_where_limits_were_copied():
    both = {"name": "a", "resources": {"limits": {EPC_RESOURCE: "2Mi"}, "requests": {EPC_RESOURCE: "2Mi"}}}
    assert asked(pod(both), EPC_RESOURCE) == 2 * MIB


def test_a_node_with_both_names_has_its_epc_once():
    found = node_epc(node({EPC_RESOURCE: "64Mi", AZURE_EPC_RESOURCE: "64", ENCLAVE_RESOURCE: "110"}))
    assert found.capacity == found.allocatable == 64 * MIB
    assert found.ledgers == (EPC_RESOURCE, AZURE_EPC_RESOURCE)
    assert found.enclaves == 110


def test_a_node_in_mib():
    assert node_epc(node({EPC_RESOURCE: "0", AZURE_EPC_RESOURCE: "64"})).capacity == 64 * MIB


def test_an_empty_node():
    found = node_epc({})
    assert not found.is_sgx
    assert found.capacity == 0
