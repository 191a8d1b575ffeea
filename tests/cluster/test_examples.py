# SPDX-License-Identifier: Apache-2.0
"""Every example, deployed as it is on a cluster of SGX nodes (SIMULATED) and ordinary ones."""

import base64
import datetime as dt
import urllib.request
from pathlib import Path

import pytest

from kubenclave import Collateral, verify_quote
from kubenclave.dcap.tcb import TcbStatus
from tests.chart import NAMESPACE
from tests.cluster import metricsserver, release
from tests.cluster.release import EPC, SIMULATED
from tools.kubernetes.build import TOOLS, built

EXAMPLES = Path(__file__).parents[2] / "examples"
PLACE = "kubenclave-examples"
# Under the names that the manifests have, as if the nodes had pulled them.
IMAGES = ("ghcr.io/kubenclave/kubenclave:0.1.0", "docker.io/library/python:3.12-slim")
VALUES = {**SIMULATED, "provision": {"allowed": [{"namespace": PLACE, "serviceAccounts": ["in-process"]}]}}

pytestmark = pytest.mark.usefixtures("addon")


@pytest.fixture(scope="module")
def addon(cluster):
    """The add-on with SIMULATED SGX on sgx-1, which carries the taint of an SGX pool, and the examples' images."""
    for node in cluster.nodes.values():
        for name in IMAGES:
            node.ctr("images", "tag", "--force", "kubenclave.test/kubenclave:test", name)
    release.pool(cluster, "sgx-1")
    cluster.kubectl("taint", "node", "sgx-1", f"{EPC}=:NoSchedule", "--overwrite")
    try:
        with release.installed(cluster, VALUES):
            cluster.wait(lambda: int(cluster.get("node", "sgx-1")["status"]["allocatable"][EPC]), 60, "EPC", NAMESPACE)
            cluster.kubectl("apply", "-f", EXAMPLES / "namespace.yaml")
            yield
            cluster.kubectl("delete", "namespace", PLACE, timeout=120)
    finally:
        cluster.kubectl("taint", "node", "sgx-1", f"{EPC}:NoSchedule-")


def deployed(cluster, *names):
    for name in names:
        cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", PLACE, "--timeout=90s", timeout=100)


def nodes_of(cluster, app):
    return {pod["spec"]["nodeName"] for pod in cluster.items("pods", PLACE, f"app={app}")}


def verified(cluster, quote):
    """The verdict on a quote under the root that the cluster publishes; raises when it is refused."""
    published = cluster.get("configmap", "kubenclave-simulated-collateral", NAMESPACE)["data"]
    root = base64.b64decode("".join(published["root.pem"].split("\n")[1:-2]))
    collateral = Collateral.from_json(published["collateral.json"])
    return verify_quote(quote, collateral, at=dt.datetime.now(dt.UTC), root=root)


def complete(cluster, job):
    cluster.kubectl("wait", "--for=condition=complete", f"job/{job}", "-n", PLACE, "--timeout=90s", timeout=100)


@pytest.mark.parametrize("dialect", ["intel", "azure"])
def test_the_web_server_answers_with_its_own_quote(cluster, dialect):
    cluster.kubectl("apply", "-k", EXAMPLES / "web-server")
    deployed(cluster, f"web-{dialect}")
    assert nodes_of(cluster, f"web-{dialect}") == {"sgx-1"}
    (slices,) = cluster.items("endpointslices", PLACE, f"kubernetes.io/service-name=web-{dialect}")
    address, port = slices["endpoints"][0]["addresses"][0], slices["ports"][0]["port"]
    with urllib.request.urlopen(f"http://{address}:{port}/quote?nonce=c0ffee", timeout=20) as answer:
        verdict = verified(cluster, answer.read())
    assert verdict.tcb_status is TcbStatus.UP_TO_DATE
    assert verdict.quote.body.report_data.rstrip(b"\0") == bytes.fromhex("c0ffee")


def test_a_quote_in_process(cluster):
    cluster.kubectl("apply", "-k", EXAMPLES / "in-process")
    complete(cluster, "in-process")
    printed = cluster.kubectl("logs", "job/in-process", "-n", PLACE).splitlines()[-1]
    verdict = verified(cluster, base64.b64decode(printed))
    assert verdict.quote.body.report_data.rstrip(b"\0") == b"made in process"


def test_a_batch(cluster):
    cluster.kubectl("apply", "-f", EXAMPLES / "job.yaml")
    complete(cluster, "batch")
    assert cluster.get("job", "batch", PLACE)["status"]["succeeded"] == 4


def test_mixed_pools_keep_to_their_nodes(cluster):
    cluster.kubectl("apply", "-f", EXAMPLES / "mixed-cluster.yaml")
    deployed(cluster, "front", "vault")
    assert nodes_of(cluster, "front") == {"plain-1"}
    assert nodes_of(cluster, "vault") == {"sgx-1"}


@pytest.mark.parametrize("dialect", ["intel", "azure"])
def test_the_pod_of_one_machine(cluster, dialect):
    cluster.kubectl("apply", "-f", EXAMPLES / f"pod-{dialect}.yaml")
    cluster.wait_pod(f"hello-{dialect}", phase="Succeeded")
    assert "hello from a pod" in cluster.kubectl("logs", f"hello-{dialect}")
    cluster.delete("pod", f"hello-{dialect}")


@pytest.mark.skipif(not built(TOOLS["metrics-server"]), reason="metrics-server is not built: make cluster-tools")
def test_autoscaling_on_cpu(cluster):
    def ready():
        return cluster.get("deployment", "busy", PLACE)["status"].get("readyReplicas", 0)

    with metricsserver.running(cluster):
        cluster.kubectl("apply", "-f", EXAMPLES / "autoscaling.yaml")
        cluster.wait(lambda: ready() > 1, 180, "more than one replica", PLACE)
        assert nodes_of(cluster, "busy") == {"sgx-1"}
        cluster.kubectl("delete", "-f", EXAMPLES / "autoscaling.yaml")
