# SPDX-License-Identifier: Apache-2.0
"""The quote helper on a real cluster: without privilege, seen on the node, and upgraded under load."""

import json

import pytest

from kubenclave.sgx.epc import Quantity
from tests.chart import NAMESPACE
from tests.cluster import release
from tests.cluster.harness.progress import say
from tests.cluster.release import EPC, SIMULATED
from tests.cluster.workloads import RESTRICTED, confidential, restricted

HELPER = "daemonset/kubenclave-quote-helper"
TAINT = "startup-taint.cluster-autoscaler.kubernetes.io/sgx"
UPGRADES = 3
# Asks for one quote after the other until it is told to stop, and counts; what fails it says as it goes.
ASKING = """
import json, os
from kubenclave.platform.aesmclient import AesmClient
from kubenclave.platform.simcpu import Enclave

enclave, client, quotes, failures = Enclave.inherited(os.environ), AesmClient(), 0, []
while not os.path.exists("/tmp/stop"):
    try:
        client.quote(lambda target: enclave.report(target, bytes(64)))
        quotes += 1
    except Exception as error:
        failures.append(repr(error))
print(json.dumps({"quotes": quotes, "failures": failures}))
"""

pytestmark = pytest.mark.usefixtures("addon")


@pytest.fixture(scope="module")
def addon(cluster):
    """The add-on on a node that comes with the startup taint."""
    release.pool(cluster, "sgx-1")
    cluster.kubectl("taint", "node", "sgx-1", f"{TAINT}=true:NoSchedule", "--overwrite")
    with release.installed(cluster, SIMULATED):
        restricted(cluster)
        cluster.wait(lambda: aesm(cluster) == "ready", 60, "AESM", NAMESPACE)
        yield
        cluster.delete("namespace", RESTRICTED)


def aesm(cluster):
    return cluster.get("node", "sgx-1")["metadata"]["annotations"].get("kubenclave.dev/aesm")


def helpers(cluster):
    """The helper's pods that are not on their way out."""
    found = cluster.items("pods", NAMESPACE, "app.kubernetes.io/component=quote-helper")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def rollout(cluster):
    cluster.kubectl("rollout", "status", HELPER, "-n", NAMESPACE, "--timeout=90s", timeout=100)


def test_it_has_its_devices_by_allocation_and_no_privilege(cluster):
    (pod,) = helpers(cluster)
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert {volume["hostPath"]["path"] for volume in spec["volumes"]} == {"/var/run/aesmd"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    limits = container["resources"]["limits"]
    assert (limits["sgx.intel.com/enclave"], limits["sgx.intel.com/provision"], limits[EPC]) == ("1", "1", "8Mi")
    name = pod["metadata"]["name"]
    status = cluster.exec(
        name, "sh", "-c", "grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/1/status", namespace=NAMESPACE
    )
    found = dict(line.split(":", 1) for line in status.splitlines())
    assert (int(found["CapEff"], 16), int(found["NoNewPrivs"]), int(found["Seccomp"])) == (0, 1, 2)
    assert "KUBENCLAVE_SIM_PROVISION=/run/kubenclave/provision/cpu.sock" in cluster.exec(
        name, "env", namespace=NAMESPACE
    )


def test_the_startup_taint_went_once_quotes_could_be_had(cluster):
    cluster.wait(lambda: not taints(cluster), 30, "the taint to go")
    reasons = [event.get("reason") for event in cluster.items("events", "default")]
    assert {"AESMReady", "StartupTaintRemoved"} <= set(reasons)


def taints(cluster):
    return [taint for taint in cluster.get("node", "sgx-1")["spec"].get("taints", ()) if taint["key"] == TAINT]


def test_upgrades_refuse_nobody(cluster):
    """A pod asks for quotes without pause while the helper is replaced again and again: not one request fails."""
    asking = confidential("asking", {EPC: "8Mi"}, "kubenclave", "sim", "run", "--", "python3", "-c", ASKING)
    asking["spec"]["restartPolicy"] = "Never"
    cluster.apply(asking, RESTRICTED)
    cluster.wait_pod("asking", RESTRICTED)
    seen = {helpers(cluster)[0]["metadata"]["uid"]}
    for _ in range(UPGRADES):
        cluster.kubectl("rollout", "restart", HELPER, "-n", NAMESPACE)
        rollout(cluster)
        seen |= {pod["metadata"]["uid"] for pod in helpers(cluster)}
    cluster.exec("asking", "touch", "/tmp/stop", namespace=RESTRICTED)
    cluster.wait_pod("asking", RESTRICTED, phase="Succeeded")
    told = json.loads(cluster.kubectl("logs", "asking", "-n", RESTRICTED).splitlines()[-1])
    say(f"{UPGRADES} upgrades of the quote helper: {told['quotes']} quotes, {len(told['failures'])} failures")
    assert len(seen) == 1 + UPGRADES
    assert told["failures"] == []
    assert told["quotes"] > 100 * UPGRADES
    cluster.delete("pod", "asking", RESTRICTED)


def test_an_upgrade_waits_for_epc_and_takes_it_from_nobody(cluster):
    """With the priority of system pods the successor would end a pod that has an enclave, to have its EPC."""
    node = cluster.get("node", "sgx-1")["status"]["allocatable"]
    rest = Quantity.parse(node[EPC]).whole() - (8 << 20)
    cluster.apply(release.pod("full", {EPC: str(rest)}))
    cluster.wait_pod("full")
    (before,) = helpers(cluster)
    cluster.kubectl("rollout", "restart", HELPER, "-n", NAMESPACE)
    waiting = cluster.wait(
        lambda: [one for one in helpers(cluster) if unschedulable(one)], 60, "a successor", NAMESPACE
    )
    assert "Insufficient sgx.intel.com/epc" in unschedulable(waiting[0])
    assert "deletionTimestamp" not in cluster.get("pod", "full")["metadata"]
    assert before["metadata"]["uid"] in {one["metadata"]["uid"] for one in helpers(cluster)}
    cluster.delete("pod", "full")
    rollout(cluster)
    (after,) = helpers(cluster)
    assert after["metadata"]["uid"] == waiting[0]["metadata"]["uid"]


def unschedulable(pod):
    """Why the scheduler finds no node for a pod; empty where it has not said so."""
    said = {one["type"]: one for one in pod["status"].get("conditions", ())}.get("PodScheduled", {})
    return said.get("message", "") if said.get("reason") == "Unschedulable" else ""


def test_a_node_without_aesm_says_so_and_one_with_it_again_too(cluster):
    nowhere = {"spec": {"template": {"spec": {"nodeSelector": {"kubenclave.test/nowhere": "x"}}}}}
    cluster.kubectl("patch", HELPER, "-n", NAMESPACE, "--type=merge", "-p", json.dumps(nowhere))
    cluster.wait(lambda: aesm(cluster) == "absent", 60, "the node to say that AESM is absent", NAMESPACE)
    pool = {"spec": {"template": {"spec": {"nodeSelector": {"kubenclave.test/nowhere": None}}}}}
    cluster.kubectl("patch", HELPER, "-n", NAMESPACE, "--type=merge", "-p", json.dumps(pool))
    cluster.wait(lambda: aesm(cluster) == "ready", 60, "AESM to be back", NAMESPACE)
