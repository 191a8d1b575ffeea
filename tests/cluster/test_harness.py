# SPDX-License-Identifier: Apache-2.0
"""The harness itself: what a test may count on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.parts import HarnessError
from tests.cluster.harness.tidy import tidy

BUSYBOX = "kubenclave.test/busybox:test"
OURS = "kubenclave.test/kubenclave:test"


def pod(name: str, *command: str, **spec):
    container = {"name": "main", "image": BUSYBOX, "command": list(command)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


def service(name: str, port: int):
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


@pytest.mark.kubernetes_1_34
def test_pods_on_both_nodes_meet_through_a_service_and_find_the_api_server(cluster: Cluster):
    serve = "mkdir /tmp/w && echo met > /tmp/w/index.html && exec httpd -f -p 8080 -h /tmp/w"
    cluster.apply([pod("server", "sh", "-c", serve, nodeName="sgx-1"), service("server", 8080)])
    cluster.apply(pod("client", "sleep", "1000", nodeName="plain-1"))
    for name in ("server", "client"):
        cluster.wait_pod(name)
    address = cluster.get("service", "server")["spec"]["clusterIP"]
    fetch = ["wget", "-qO-", f"http://{address}/"]
    cluster.wait(lambda: cluster.exec("client", *fetch) == "met\n", 10, "the service to answer")
    assert cluster.exec("server", *fetch) == "met\n"
    assert (
        cluster.exec("client", "sh", "-c", "nc -w 2 $KUBERNETES_SERVICE_HOST 443 </dev/null && echo open") == "open\n"
    )
    assert cluster.exec("client", "id", "-u") == "65532\n"
    for name in ("server", "client"):
        cluster.delete("pod", name)


@pytest.mark.kubernetes_1_34
def test_a_pod_runs_this_checkout(cluster: Cluster):
    container = {"name": "main", "image": OURS, "args": ["--version"]}
    cluster.apply(pod("ours", nodeName="sgx-1", restartPolicy="Never", containers=[container]))
    cluster.wait_pod("ours", phase="Succeeded")
    assert "kubenclave" in cluster.kubectl("logs", "ours")
    cluster.delete("pod", "ours")


def test_an_image_is_found_by_its_digest(cluster: Cluster):
    container = {"name": "main", "image": cluster.by_digest[BUSYBOX], "command": ["true"], "imagePullPolicy": "Never"}
    cluster.apply(pod("digest", nodeName="sgx-1", restartPolicy="Never", containers=[container]))
    cluster.wait_pod("digest", phase="Succeeded")
    cluster.delete("pod", "digest")


@pytest.mark.kubernetes_1_34
def test_pods_find_services_by_name(cluster: Cluster):
    cluster.apply(service("named", 8080))
    cluster.apply(pod("asker", "sleep", "1000"))
    cluster.wait_pod("asker")
    address = cluster.get("service", "named")["spec"]["clusterIP"]
    program = "import socket,sys; print(socket.gethostbyname(sys.argv[1]))"
    container = {"name": "main", "image": OURS, "command": ["python", "-c", program, "named"]}
    cluster.apply(pod("resolver", restartPolicy="Never", containers=[container]))
    cluster.wait_pod("resolver", phase="Succeeded")
    assert cluster.kubectl("logs", "resolver").strip() == address
    for name in ("asker", "resolver"):
        cluster.delete("pod", name)


def test_folders_of_a_node_are_its_own(cluster: Cluster):
    for name, node in cluster.nodes.items():
        node.run("sh", "-c", f"echo {name} >/var/lib/kubenclave/who && mkdir -p /run/kubenclave")
        assert (node.folder / "var/lib/kubenclave/who").read_text() == f"{name}\n"
    assert not Path("/run/kubenclave").exists()
    volume = {"name": "who", "hostPath": {"path": "/var/lib/kubenclave"}}
    container = {
        "name": "main",
        "image": BUSYBOX,
        "command": ["cat", "/who/who"],
        "volumeMounts": [{"name": "who", "mountPath": "/who"}],
    }
    for name in cluster.nodes:
        spec = {"nodeName": name, "restartPolicy": "Never", "volumes": [volume], "containers": [container]}
        cluster.apply(pod(f"who-{name}", **spec))
        cluster.wait_pod(f"who-{name}", phase="Succeeded")
        assert cluster.kubectl("logs", f"who-{name}") == f"{name}\n"
        cluster.delete("pod", f"who-{name}")


def test_sgx_devices_of_a_node_come_and_go_without_touching_the_machine(cluster: Cluster):
    node = cluster.nodes["sgx-1"]
    node.make_sgx_devices()
    assert node.run("sh", "-c", "ls /dev/sgx_*").split() == ["/dev/sgx_enclave", "/dev/sgx_provision"]
    node.run("sh", "-c", "exec 3</dev/sgx_enclave 4</dev/sgx_provision")
    assert not list(Path("/dev").glob("sgx*"))
    assert cluster.nodes["plain-1"].run("sh", "-c", "ls /dev | grep -c sgx || true").strip() == "0"
    node.remove_sgx_devices()
    assert node.run("sh", "-c", "ls /dev | grep -c sgx || true").strip() == "0"


@pytest.mark.kubernetes_1_34
def test_pods_survive_restarts_of_kubelet_and_containerd(cluster: Cluster):
    node = cluster.nodes["plain-1"]
    cluster.apply(pod("survivor", "sh", "-c", "date +%s%N >/tmp/born; sleep 1000", nodeName="plain-1"))
    cluster.wait_pod("survivor")
    born = cluster.exec("survivor", "cat", "/tmp/born")
    node.stop_kubelet()
    node.restart_containerd()
    node.start_kubelet()
    cluster.wait(lambda: cluster.exec("survivor", "cat", "/tmp/born") == born, 30, "the kubelet to be back")
    cluster.wait_nodes()
    assert cluster.get("pod", "survivor")["status"]["containerStatuses"][0]["restartCount"] == 0
    cluster.delete("pod", "survivor")


def test_the_api_server_comes_back_with_what_it_knew(cluster: Cluster):
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    cluster.stop_apiserver()
    with pytest.raises(HarnessError, match="refused"):
        cluster.get("configmap", "kept")
    cluster.start_apiserver()
    assert cluster.get("configmap", "kept")["data"] == {"a": "b"}
    cluster.delete("configmap", "kept")


def test_a_scheduler_that_ends_by_itself_is_started_again(cluster: Cluster):
    scheduler = cluster.control.scheduler
    before = scheduler.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    cluster.wait(lambda: scheduler.pid not in {None, before}, 30, "the scheduler to be started again")


def test_the_audit_log_has_writes_with_annotations(cluster: Cluster):
    cluster.kubectl("create", "configmap", "audited")
    cluster.delete("configmap", "audited")
    mine = [event for event in cluster.audit() if event["objectRef"].get("name") == "audited"]
    assert {event["verb"] for event in mine} == {"create", "delete"}
    assert all("authorization.k8s.io/decision" in event["annotations"] for event in mine)


def test_a_service_account_has_the_rights_that_it_was_given_and_no_more(cluster: Cluster):
    cluster.kubectl("create", "serviceaccount", "nobody")
    kubeconfig = cluster.kubeconfig_for("nobody")
    with pytest.raises(HarnessError, match="Forbidden"):
        cluster.kubectl("get", "nodes", "--kubeconfig", kubeconfig)
    cluster.delete("serviceaccount", "nobody")


def test_a_failure_tells_of_unhappy_pods_and_the_ends_of_logs(cluster: Cluster):
    cluster.apply(pod("unhappy", "true", nodeSelector={"no": "such-node"}))
    with pytest.raises(HarnessError) as failure:
        cluster.wait_pod("unhappy", timeout=2)
    told = str(failure.value)
    for word in ("pod default/unhappy to be Running", "didn't match Pod's node affinity", "kube-scheduler.log"):
        assert word in told
    cluster.delete("pod", "unhappy")


def test_what_a_failed_test_left_is_tidied_up(cluster: Cluster, nodes_before):
    cluster.kubectl("create", "namespace", "left")
    cluster.kubectl("create", "configmap", "left", "-n", "left")
    cluster.kubectl("label", "node", "sgx-1", "left=true")
    cluster.kubectl("taint", "node", "sgx-1", "left=true:NoSchedule")
    epc = {"status": {"capacity": {"left.example/epc": "1"}}}
    cluster.kubectl("patch", "node", "sgx-1", "--subresource=status", "--type=merge", "-p", json.dumps(epc))
    cluster.apply(pod("left", "sleep", "1000", tolerations=[{"operator": "Exists"}]))
    cluster.nodes["plain-1"].stop_kubelet()
    cluster.stop_apiserver()
    tidy(cluster, nodes_before)
    node = cluster.get("node", "sgx-1")
    assert "left" not in node["metadata"]["labels"]
    assert "taints" not in node["spec"]
    assert not [name for name in node["status"]["allocatable"] if name.startswith("left")]
    assert not [item for item in cluster.items("namespaces", "") if item["metadata"]["name"] == "left"]
    assert not cluster.items("pods")
