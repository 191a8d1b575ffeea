# SPDX-License-Identifier: Apache-2.0
"""The chart's life on a real cluster: accepted, installed, upgraded, rolled back, and gone."""

import itertools
import json
import time

import pytest
import yaml

from tests.chart import NAMESPACE, VARIATIONS, template
from tests.cluster import release
from tests.cluster.harness.parts import HarnessError
from tests.cluster.harness.progress import say
from tests.cluster.release import AZURE, EPC, pod

MIB = 1 << 20


def names_of_everything(cluster):
    """Every object of the cluster but what comes and goes by itself."""
    kinds = cluster.kubectl("api-resources", "--verbs=list,get", "-o", "name").split()
    passing = {"events", "events.events.k8s.io", "componentstatuses", "endpointslices.discovery.k8s.io", "endpoints"}
    found = cluster.kubectl(
        "get", ",".join(sorted(set(kinds) - passing)), "-A", "--ignore-not-found",
        "-o", "jsonpath={range .items[*]}{.kind} {.metadata.namespace} {.metadata.name}{'\\n'}{end}",
    )  # fmt: skip
    return {line for line in found.splitlines() if not line.startswith("Lease kube-node-lease ")}


def traces_on_nodes(cluster):
    """What the add-on may put on a node. The kubelet keeps the names of a plugin's devices, with none to allocate."""
    devices = {"sgx.intel.com/enclave", "sgx.intel.com/provision"}
    found = {}
    for node in cluster.items("node", ""):
        status = node["status"]
        left = {status["allocatable"].get(name, "0") for name in devices}
        found[node["metadata"]["name"]] = (
            node["metadata"]["labels"],
            set(node["metadata"]["annotations"]),
            node["metadata"].get("finalizers"),
            node["spec"].get("taints"),
            set(status["capacity"]) - devices,
            left,
            {condition["type"] for condition in status["conditions"]},
        )
    return found


def container_of(cluster, name, namespace="default"):
    """Identity of the one container of a pod: another one, or a restarted one, has another."""
    (status,) = cluster.get("pod", name, namespace)["status"]["containerStatuses"]
    return status["containerID"], status["restartCount"]


def standing(cluster):
    """Pods of the add-on without those that are on their way out."""
    return [found for found in cluster.items("pods", NAMESPACE) if "deletionTimestamp" not in found["metadata"]]


def daemons(cluster):
    """Component and identity of each of them."""
    pods = (found["metadata"] for found in standing(cluster))
    return {(found["labels"]["app.kubernetes.io/component"], found["uid"]) for found in pods}


@pytest.mark.parametrize("variation", VARIATIONS)
def test_the_api_server_accepts_every_object(cluster, variation):
    rendered = template(VARIATIONS[variation])
    objects = [found for found in yaml.safe_load_all(rendered.stdout) if found]
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    told = cluster.kubectl("apply", "--dry-run=server", "--server-side", "--validate=strict", "-f", "-", text=listed)
    assert len(told.splitlines()) == len(objects)
    assert "Warning" not in told


@pytest.mark.parametrize("mode", [pytest.param("auto", marks=pytest.mark.kubernetes_1_34), "webhook"])
def test_a_life_from_install_to_uninstall(cluster, mode):
    values = release.SIMULATED | {"admission": {"mode": mode}}
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout=120)
    release.pool(cluster, "sgx-1")
    before = names_of_everything(cluster), traces_on_nodes(cluster)
    with release.installed(cluster, values):
        node = cluster.wait(lambda: EPC in cluster.get("node", "sgx-1")["status"]["allocatable"], 60, "EPC", NAMESPACE)
        assert node
        cluster.apply(pod("enclaved", {AZURE: "10"}))
        running = cluster.wait_pod("enclaved")
        assert running["spec"]["nodeName"] == "sgx-1"
        assert running["spec"]["containers"][0]["resources"]["limits"][EPC] == str(10 * MIB)
        container, first = container_of(cluster, "enclaved"), daemons(cluster)

        digest = release.digest(cluster)
        changed = {"image": {**release.TEST_IMAGE, "tag": "", "digest": digest}, "nodeAgent": {"podLabels": {"a": "b"}}}
        release.helm(cluster, "upgrade", values | changed)
        second = daemons(cluster)
        assert {component for component, _ in second} == {component for component, _ in first}
        assert not first & second
        images = {found["spec"]["containers"][0]["image"] for found in standing(cluster)}
        assert images == {f"kubenclave.test/kubenclave@{digest}"}
        assert container_of(cluster, "enclaved") == container

        release.rollback(cluster)
        assert not second & daemons(cluster)
        assert container_of(cluster, "enclaved") == container
        cluster.apply(pod("after", {EPC: "10Mi"}))
        cluster.wait_pod("after")
        cluster.delete("pod", "after")
    assert container_of(cluster, "enclaved") == container  # what runs is left alone
    cluster.delete("pod", "enclaved")
    gone = before[1]
    cluster.wait(lambda: traces_on_nodes(cluster) == gone, 30, "the nodes to be as before")
    assert names_of_everything(cluster) - before[0] == set()


def test_requests_fit_the_measured_memory(cluster):
    release.pool(cluster, "sgx-1")
    with release.installed(cluster, release.SIMULATED | {"admission": {"mode": "webhook"}}):
        time.sleep(5)  # what they need at rest, after what they need to start
        for found in cluster.items("pods", NAMESPACE):
            name, (container,) = found["metadata"]["name"], found["spec"]["containers"]
            told = cluster.exec(name, "sh", "-c", "cat /proc/[0-9]*/status", namespace=NAMESPACE)
            lines = [line.split() for line in told.splitlines() if line.startswith(("Name:", "VmRSS:"))]
            processes = [
                (value[1], int(rss[1]) << 10) for value, rss in itertools.pairwise(lines) if rss[0] == "VmRSS:"
            ]
            resident = sum(rss for program, rss in processes if program not in {"sh", "cat"})
            asked = int(container["resources"]["requests"]["memory"].removesuffix("Mi")) << 20
            allowed = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
            say(f"{name}: {resident / MIB:.0f} MiB resident, asks for {asked / MIB:.0f}")
            assert resident <= asked <= 2 * resident, name
            assert allowed >= 1.5 * resident, name


def test_quota_and_limit_range_count_epc(cluster):
    release.pool(cluster, "sgx-1")
    with release.installed(cluster, release.SIMULATED):
        for space in ("quota", "range"):
            cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
        quota = {"hard": {f"requests.{EPC}": "64Mi"}}
        bound = {"limits": [{"type": "Container", "max": {EPC: "48Mi"}, "default": {EPC: "16Mi"}}]}
        cluster.apply(
            {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "epc"}, "spec": quota}, "quota"
        )
        cluster.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "epc"}, "spec": bound}, "range")
        cluster.wait(lambda: cluster.get("resourcequota", "epc", "quota")["status"]["used"], 30, "the quota", "quota")

        cluster.apply(pod("first", {AZURE: "40"}, "quota"), "quota")  # whatever the name
        cluster.wait_pod("first", "quota")
        assert cluster.get("resourcequota", "epc", "quota")["status"]["used"] == {f"requests.{EPC}": str(40 * MIB)}
        with pytest.raises(HarnessError, match="exceeded quota: epc"):
            cluster.apply(pod("second", {AZURE: "40"}, "quota"), "quota")

        cluster.apply(pod("third", {}, "range"), "range")
        limits = cluster.wait_pod("third", "range")["spec"]["containers"][0]["resources"]["limits"]
        assert limits == {EPC: "16Mi", "sgx.intel.com/enclave": "1"}
        with pytest.raises(HarnessError, match="usage per Container is 48Mi"):
            cluster.apply(pod("fourth", {EPC: "64Mi"}, "range"), "range")
        cluster.kubectl("delete", "namespace", "quota", "range", timeout=60)
