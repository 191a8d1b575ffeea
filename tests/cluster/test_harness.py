# SPDX-License-Identifier: Apache-2.0
"""The harness itself: what a test may count on."""

from __future__ import annotations

from tests.cluster.harness.cluster import Cluster

BUSYBOX = "kubenclave.test/busybox:test"


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


def test_a_pod_runs_this_checkout(cluster: Cluster):
    container = {"name": "main", "image": "kubenclave.test/kubenclave:test", "args": ["--version"]}
    cluster.apply(pod("ours", nodeName="sgx-1", restartPolicy="Never", containers=[container]))
    cluster.wait_pod("ours", phase="Succeeded")
    assert "kubenclave" in cluster.kubectl("logs", "ours")
    cluster.delete("pod", "ours")


def test_an_image_is_found_by_its_digest(cluster: Cluster):
    container = {"name": "main", "image": cluster.by_digest[BUSYBOX], "command": ["true"], "imagePullPolicy": "Never"}
    cluster.apply(pod("digest", nodeName="sgx-1", restartPolicy="Never", containers=[container]))
    cluster.wait_pod("digest", phase="Succeeded")
    cluster.delete("pod", "digest")
