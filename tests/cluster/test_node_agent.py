# SPDX-License-Identifier: Apache-2.0
"""The node agent on a real cluster: what it publishes, when it withdraws it, and what it may not do."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubenclave.sgx.epc import MIB
from tests.chart import NAMESPACE
from tests.cluster import hardware
from tests.cluster.hardware import TAINT, epc
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.parts import HarnessError
from tests.cluster.release import EPC, installed, pod

pytestmark = pytest.mark.kubernetes_1_34

MIB_OF_NODE = 64
AGENT = f"system:serviceaccount:{NAMESPACE}:kubenclave-node-agent"


@pytest.fixture(scope="module")
def sgx(cluster: Cluster) -> Iterator[Cluster]:
    """The add-on on a node with SGX hardware."""
    hardware.give(cluster, cluster.node("sgx-1"), MIB_OF_NODE)
    try:
        with installed(cluster, hardware.VALUES):
            published(cluster)
            yield cluster
    finally:
        hardware.take(cluster, cluster.node("sgx-1"))


def published(cluster: Cluster, size: int = MIB_OF_NODE * MIB) -> None:
    cluster.wait(lambda: epc(cluster, "sgx-1") == size, 30, f"{size} bytes of EPC")


def condition(cluster: Cluster) -> tuple[str, str]:
    conditions = cluster.get("node", "sgx-1")["status"]["conditions"]
    (found,) = [one for one in conditions if one["type"] == "SGXReady"]
    return found["status"], found["reason"]


def events(cluster: Cluster) -> set[str]:
    return {one["reason"] for one in cluster.items("events") if one["involvedObject"]["kind"] == "Node"}


def test_a_node_says_what_it_has_and_pods_get_it(sgx):
    node = sgx.get("node", "sgx-1")
    assert node["metadata"]["labels"]["kubenclave.dev/sgx"] == "true"
    assert node["metadata"]["labels"]["sgx.intel.com/capable"] == "true"
    assert node["metadata"]["annotations"]["kubenclave.dev/epc-numa"] == '{"0":67108864}'
    assert condition(sgx) == ("True", "EPCPublished")
    assert "EPCPublished" in events(sgx)
    assert EPC not in sgx.get("node", "plain-1")["status"]["capacity"]
    sgx.apply(pod("user", {EPC: "8Mi"}))
    assert sgx.wait_pod("user")["spec"]["nodeName"] == "sgx-1"
    assert sgx.exec("user", "sh", "-c", "test -c /dev/sgx_enclave && echo there") == "there\n"
    one_device = 'namespace="default",pod="user",container="main",resource="sgx.intel.com/enclave"} 1\n'
    sgx.wait(lambda: one_device in metrics(sgx), 30, "the pod's device among the metrics")
    sgx.delete("pod", "user")
    sgx.wait(lambda: 'pod="user"' not in metrics(sgx), 30, "the pod's device to go from the metrics")


def metrics(cluster: Cluster) -> str:
    """What a scrape of the agent on sgx-1 gets."""
    (agent,) = cluster.items("pods", NAMESPACE, "app.kubernetes.io/component=node-agent")
    where = f"/api/v1/namespaces/{NAMESPACE}/pods/{agent['metadata']['name']}:9100/proxy/metrics"
    return cluster.kubectl("get", "--raw", where)


def test_the_agent_runs_without_privilege(sgx):
    (agent,) = sgx.items("pods", NAMESPACE, "app.kubernetes.io/component=node-agent")
    name = agent["metadata"]["name"]
    status = sgx.exec(name, "python", "-c", "print(open('/proc/self/status').read())", namespace=NAMESPACE)
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    with pytest.raises(HarnessError):
        sgx.exec(name, "python", "-c", "open('/host/dev/sgx_enclave', 'rb')", namespace=NAMESPACE)
    with pytest.raises(HarnessError):
        sgx.exec(name, "python", "-c", "open('/x', 'w')", namespace=NAMESPACE)


def test_without_a_driver_epc_is_zero_and_a_pod_that_names_the_node_is_refused(sgx):
    node = sgx.node("sgx-1")
    sgx.apply(pod("running", {EPC: "8Mi"}))
    before = sgx.wait_pod("running")["status"]["containerStatuses"][0]["containerID"]
    node.remove_sgx_devices()
    published(sgx, 0)
    assert epc(sgx, "sgx-1", "capacity") == 0
    assert condition(sgx) == ("False", "NoEnclaveDevice")
    assert "kubenclave.dev/sgx" not in sgx.get("node", "sgx-1")["metadata"]["labels"]
    refused = pod("refused", {EPC: "8Mi"})
    refused["spec"]["nodeName"] = "sgx-1"
    sgx.apply(refused)
    failed = sgx.wait_pod("refused", phase="Failed")
    assert failed["status"]["reason"] in {
        "NodeAffinity",
        f"OutOf{EPC}",
        "OutOfsgx.intel.com/enclave",
        "UnexpectedAdmissionError",
    }
    sgx.delete("pod", "refused")
    node.make_sgx_devices()
    published(sgx)
    cluster_has = events(sgx)
    assert {"EPCWithdrawn", "EPCPublished"} <= cluster_has
    assert sgx.get("pod", "running")["status"]["containerStatuses"][0]["containerID"] == before
    sgx.delete("pod", "running")


def test_pods_that_run_outlive_a_kubelet_that_restarts_while_the_device_is_made_anew(sgx):
    """A kubelet admits what runs once more by the EPC of its Node, and ends what does not fit."""
    node = sgx.node("sgx-1")
    published(sgx)
    sgx.apply(pod("running", {EPC: "8Mi"}))
    before = sgx.wait_pod("running")["status"]["containerStatuses"][0]
    for _ in range(3):
        node.stop_kubelet()
        node.remove_sgx_devices()
        node.start_kubelet()
        sgx.wait(lambda: condition(sgx) == ("False", "NoEnclaveDevice"), 10, "the agent to see it")
        time.sleep(3)  # the kubelet has seen its pods by then
        node.make_sgx_devices()
        sgx.wait(lambda: condition(sgx) == ("True", "EPCPublished"), 30, "the device to be back")
    sgx.wait_nodes()
    after = sgx.get("pod", "running")["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], before["restartCount"])
    sgx.delete("pod", "running")


def test_a_node_made_anew_is_told_again(sgx):
    sgx.kubectl("delete", "node", "sgx-1")
    sgx.node("sgx-1").stop_kubelet()
    sgx.node("sgx-1").start_kubelet()
    sgx.wait_nodes()
    sgx.kubectl("label", "node", "sgx-1", f"{hardware.LABEL}=true", "--overwrite")
    sgx.wait(lambda: epc(sgx, "sgx-1") == MIB_OF_NODE * MIB, 90, "EPC on the new Node")


def replaced(cluster: Cluster) -> bool:
    """Whether the agent is on its way from one pod to another."""
    agent = cluster.get("daemonset", "kubenclave-node-agent", NAMESPACE)
    status = agent["status"]
    current = status["observedGeneration"] == agent["metadata"]["generation"]
    return not (current and status.get("updatedNumberScheduled") == status.get("numberAvailable", 0) == 1)


def test_pods_that_come_while_the_agent_is_replaced_wait_instead_of_failing(sgx):
    names: list[str] = []
    for _ in range(3):
        sgx.kubectl("rollout", "restart", "daemonset/kubenclave-node-agent", "-n", NAMESPACE)
        while replaced(sgx):
            names.append(f"meanwhile-{len(names)}")
            sgx.apply(pod(names[-1], {EPC: "64Ki"}))
    assert len(names) > 6, "pods came meanwhile"
    for name in names:
        sgx.wait_pod(name, timeout=30)
        sgx.kubectl("delete", "pod", name, "--wait=false")


def test_the_startup_taint_goes_once_everything_works(sgx):
    node = sgx.node("sgx-1")
    node.remove_sgx_devices()
    published(sgx, 0)
    sgx.kubectl("taint", "node", "sgx-1", f"{TAINT}=wait:NoSchedule", "other=stays:NoSchedule")
    node.make_sgx_devices()
    sgx.wait(lambda: taints(sgx) == ["other"], 40, "the startup taint to go")
    assert "StartupTaintRemoved" in events(sgx)
    sgx.kubectl("taint", "node", "sgx-1", "other-")


def taints(cluster: Cluster) -> list[str]:
    return [taint["key"] for taint in cluster.get("node", "sgx-1")["spec"].get("taints", [])]


# What a node agent may not do, with the token of sgx-1.


def agent_of(cluster: Cluster, node: str) -> Path:
    """A kubeconfig of the node agent on ``node``, by impersonation: a token of its own says no more."""
    config: dict[str, Any] = yaml.safe_load(cluster.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] |= {"as": AGENT, "as-user-extra": {"authentication.kubernetes.io/node-name": [node]}}
    file = cluster.folder / f"agent-{node}.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.parametrize(
    ("patch", "status"),
    [
        ('{"metadata":{"labels":{"pool":"mine"}}}', False),
        ('{"metadata":{"labels":{"kubernetes.io/os":null}}}', False),
        ('{"metadata":{"annotations":{"note":"mine"}}}', False),
        ('{"metadata":{"finalizers":["a.b/c"]}}', False),
        ('{"spec":{"unschedulable":true}}', False),
        ('{"spec":{"taints":[{"key":"mine","effect":"NoExecute"}]}}', False),
        ('{"status":{"capacity":{"cpu":"64"}}}', True),
        ('{"status":{"allocatable":{"memory":"1"}}}', True),
        ('{"status":{"allocatable":{"sgx.intel.com/enclave":"500"}}}', True),
        ('{"status":{"capacity":{"sgx.intel.com/enclave":"0"}}}', True),
        ('{"status":{"capacity":{"sgx.intel.com/epc":null}}}', True),
        ('{"status":{"conditions":[{"type":"Ready","status":"False"}]}}', True),
        ('{"status":{"nodeInfo":{"kubeletVersion":"v9"}}}', True),
        ('{"status":{"features":{"supplementalGroupsPolicy":false}}}', True),
        ('{"status":{"declaredFeatures":["Another"]}}', True),
    ],
)
def test_an_agent_changes_nothing_but_what_is_its_own(sgx, patch, status):
    more = ["--subresource=status"] if status else []
    with pytest.raises(HarnessError, match="kubenclave-node-agent"):
        sgx.kubectl("--kubeconfig", agent_of(sgx, "sgx-1"), "patch", "node", "sgx-1", *more, "-p", patch)


def test_an_agent_reaches_no_other_node(sgx):
    label = '{"metadata":{"labels":{"kubenclave.dev/sgx":"true"}}}'
    with pytest.raises(HarnessError, match="its own Node only"):
        sgx.kubectl("--kubeconfig", agent_of(sgx, "sgx-1"), "patch", "node", "plain-1", "-p", label)
    sgx.kubectl("--kubeconfig", agent_of(sgx, "sgx-1"), "patch", "node", "sgx-1", "-p", label)
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "x"}, "reason": "X"}
    other = {**event, "involvedObject": {"kind": "Node", "name": "plain-1"}}
    with pytest.raises(HarnessError, match="its own Node only"):
        sgx.kubectl("--kubeconfig", agent_of(sgx, "sgx-1"), "create", "-f", "-", text=yaml.safe_dump(other))
