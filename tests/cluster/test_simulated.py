# SPDX-License-Identifier: Apache-2.0
"""SIMULATED nodes on a real cluster: pods get EPC, enclave and quotes, and the quotes verify with what is published."""

import base64
import json
import subprocess
import sys

import pytest

from kubenclave.errors import KubenclaveError, PlatformError
from kubenclave.platform.simulated.issued import AUDIENCE
from kubenclave.platform.simulated.renewal import IssuerAddress, fetch, request_of
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.sgx.epc import Quantity
from tests.chart import NAMESPACE
from tests.cluster import release
from tests.cluster.harness.progress import say
from tests.cluster.release import AZURE, EPC, SIMULATED
from tests.cluster.workloads import RESTRICTED, confidential, quote, restricted

MIB = 1 << 20
VALUES = {**SIMULATED, "simulated": {**SIMULATED["simulated"], "numa": ["64Mi", "32Mi"]}}
STATE = "/var/lib/kubenclave/sim"
PUBLISHED = "kubenclave-simulated-collateral"

pytestmark = pytest.mark.usefixtures("addon")


@pytest.fixture(scope="module")
def addon(cluster, tmp_path_factory):
    """The add-on with two NUMA nodes of EPC on sgx-1, and a pod that is ready to have enclaves quoted."""
    release.pool(cluster, "sgx-1")
    with release.installed(cluster, VALUES):
        pass  # an issuer before the one that counts: what it has certified must not be used any more
    with release.installed(cluster, VALUES):
        cluster.wait(lambda: int(allocatable(cluster, "sgx-1").get(EPC, 0)) == 96 * MIB, 60, "EPC", NAMESPACE)
        restricted(cluster)
        cluster.apply(confidential("quoter", {EPC: "16Mi"}), RESTRICTED)
        cluster.wait_pod("quoter", RESTRICTED)
        assert verify(cluster, tmp_path_factory.mktemp("first"), quote(cluster, "quoter")) == "UpToDate"
        yield
        cluster.delete("namespace", RESTRICTED)


def allocatable(cluster, node):
    return cluster.get("node", node)["status"]["allocatable"]


def published(cluster, folder):
    """Files of the ConfigMap as a relying party gets them, by name."""
    data = cluster.get("configmap", PUBLISHED, NAMESPACE)["data"]
    for name in ("root.pem", "collateral.json"):
        (folder / name).write_text(data[name])
    return folder / "root.pem", folder / "collateral.json"


def verify(cluster, folder, content, *, trusted=True, data="00ff"):
    """What `kubenclave quote verify` says: the status of the platform, or the code of the refusal."""
    root, collateral = published(cluster, folder)
    (folder / "quote.bin").write_bytes(content)
    words = ["quote", "verify", folder / "quote.bin", "--collateral", collateral, "--at", "now", "--output", "json"]
    words += ["--report-data", data]
    words += ["--root", root] if trusted else []
    done = subprocess.run([sys.executable, "-m", "kubenclave", *words], capture_output=True, check=False)
    document = json.loads(done.stdout)
    assert document["accepted"] == (done.returncode == 0)
    assert document.get("simulated", True)
    return document["tcb_status"] if document["accepted"] else document["error"]["code"]


def component(cluster, name):
    """The pods of a component that are not on their way out."""
    found = cluster.items("pods", NAMESPACE, f"app.kubernetes.io/component={name}")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def simulator(cluster, *words):
    """Run a command in the simulator of sgx-1."""
    (pod,) = component(cluster, "simulator")
    return cluster.exec(pod["metadata"]["name"], *words, namespace=NAMESPACE)


def test_a_simulated_node_says_so_everywhere(cluster):
    node = cluster.get("node", "sgx-1")
    assert node["metadata"]["labels"]["kubenclave.dev/simulated"] == "true"
    assert json.loads(node["metadata"]["annotations"]["kubenclave.dev/epc-numa"]) == {"0": 64 * MIB, "1": 32 * MIB}
    (condition,) = [one for one in node["status"]["conditions"] if one["type"] == "SGXReady"]
    assert condition["status"] == "True"
    assert "SIMULATED" in condition["message"]
    events = [event for event in cluster.items("events", "default") if event["involvedObject"]["name"] == "sgx-1"]
    assert any("SIMULATED" in event.get("message", "") for event in events)
    (pod,) = component(cluster, "simulator")
    log = cluster.kubectl("logs", "-n", NAMESPACE, pod["metadata"]["name"])
    assert "SIMULATED" in log
    assert all(json.loads(line)["simulated"] for line in log.splitlines() if line.startswith("{"))
    other = cluster.get("node", "plain-1")
    assert EPC not in other["status"]["allocatable"]
    assert "kubenclave.dev/simulated" not in other["metadata"]["labels"]


@pytest.mark.kubernetes_1_34
@pytest.mark.parametrize(("name", "limits"), [("azure", {AZURE: "10"}), ("intel", {EPC: "10Mi"})])
def test_a_restricted_pod_gets_a_quote_that_verifies_under_the_root_of_the_cluster(cluster, tmp_path, name, limits):
    cluster.apply(confidential(name, limits), RESTRICTED)
    pod = cluster.wait_pod(name, RESTRICTED)
    assert pod["spec"]["nodeName"] == "sgx-1"
    assert "volumes" not in pod["spec"]
    content = quote(cluster, name, "c0ffee")
    assert verify(cluster, tmp_path, content, data="c0ffee") == "UpToDate"
    assert verify(cluster, tmp_path, content, trusted=False, data="c0ffee") == "pck.untrusted-root"
    cluster.delete("pod", name, RESTRICTED)


@pytest.mark.kubernetes_1_34
def test_a_pod_as_written_for_confcom_with_its_hostpath_gets_a_quote_too(cluster, tmp_path):
    """The directory comes with the device, and read-only: the volume that confcom's guides ask for goes."""
    pod = release.pod("confcom", {AZURE: "10"})
    (container,) = pod["spec"]["containers"]
    container["image"] = f"{release.TEST_IMAGE['repository']}:{release.TEST_IMAGE['tag']}"
    container["env"] = [{"name": "SGX_AESM_ADDR", "value": "1"}, {"name": "XDG_CONFIG_HOME", "value": "/tmp"}]
    container["volumeMounts"] = [{"name": "aesm", "mountPath": "/var/run/aesmd"}]
    pod["spec"]["volumes"] = [{"name": "aesm", "hostPath": {"path": "/var/run/aesmd"}}]
    cluster.apply(pod)
    running = cluster.wait_pod("confcom")
    assert not [volume for volume in running["spec"]["volumes"] if "hostPath" in volume]
    content = quote(cluster, "confcom", "c0ffee", "default")
    assert verify(cluster, tmp_path, content, data="c0ffee") == "UpToDate"
    mounts = cluster.exec("confcom", "cat", "/proc/mounts").splitlines()
    assert [line.split()[3].split(",")[0] for line in mounts if line.split()[1] == "/run/aesmd"] == ["ro"]
    cluster.delete("pod", "confcom")


def test_a_pod_without_epc_gets_nothing_of_the_platform(cluster):
    cluster.apply(confidential("plain", {"cpu": "50m"}, quotes=False), RESTRICTED)
    cluster.wait_pod("plain", RESTRICTED)
    found = cluster.exec("plain", "sh", "-c", "ls /run/kubenclave /var/run/aesmd 2>&1 || true", namespace=RESTRICTED)
    assert found.count("No such file") == 2
    cluster.delete("pod", "plain", RESTRICTED)


def test_no_node_has_the_seed_of_the_root(cluster):
    seed = base64.b64decode(cluster.get("secret", "kubenclave-simulated-root", NAMESPACE)["data"]["seed"])
    assert len(seed) == 32
    node = cluster.node("sgx-1")
    files = node.run("find", STATE, "/run/kubenclave", "-type", "f").split()
    assert {f"{STATE}/platform.json", f"{STATE}/issued.json"} <= set(files)
    kept = "".join(node.run("cat", file) for file in files)
    assert seed.hex() not in kept
    assert base64.b64encode(seed).decode() not in kept
    assert json.loads(node.run("cat", f"{STATE}/platform.json")).keys() & {"seed"} == set()


@pytest.mark.parametrize("name", ["simulator", "issuer", "quote-helper"])
def test_programs_stay_within_the_memory_they_ask_for(cluster, name):
    (pod,) = component(cluster, name)
    told = cluster.exec(
        pod["metadata"]["name"], "sh", "-c", "grep -h VmRSS /proc/[0-9]*/status || true", namespace=NAMESPACE
    )
    resident = sum(int(line.split()[1]) << 10 for line in told.splitlines())
    asked = Quantity.parse(pod["spec"]["containers"][0]["resources"]["requests"]["memory"]).whole()
    say(f"{name}: {resident / MIB:.1f} MB resident, {asked / MIB:.0f} MB asked for")
    assert 0 < resident <= asked


def test_a_revoked_node_is_revoked_for_everybody(cluster, tmp_path):
    simulator(cluster, "kubenclave", "sim", "tcb", "revoked", "--state", STATE)
    try:
        content = quote(cluster, "quoter")
        cluster.wait(lambda: verify(cluster, tmp_path, content) == "pck.revoked", 30, "revocation")
    finally:
        simulator(cluster, "kubenclave", "sim", "tcb", "up-to-date", "--state", STATE)
    cluster.wait(lambda: verify(cluster, tmp_path, content) == "UpToDate", 30, "the node to be good again")


def test_the_simulator_comes_back_as_the_same_platform_also_without_the_issuer(cluster, tmp_path):
    issued = cluster.node("sgx-1").run("cat", f"{STATE}/issued.json")
    cluster.kubectl("scale", "deployment/kubenclave-issuer", "--replicas=0", "-n", NAMESPACE)
    cluster.wait(lambda: not cluster.items("pods", NAMESPACE, "app.kubernetes.io/component=issuer"), 60, "no issuer")
    (before,) = component(cluster, "simulator")
    cluster.kubectl("delete", "pod", before["metadata"]["name"], "-n", NAMESPACE, "--wait")
    try:
        cluster.kubectl("rollout", "status", "daemonset/kubenclave-simulator", "-n", NAMESPACE, "--timeout=60s")
        content = cluster.wait(lambda: quote(cluster, "quoter"), 60, "quotes again", NAMESPACE)
        assert verify(cluster, tmp_path, content) == "UpToDate"
        assert cluster.node("sgx-1").run("cat", f"{STATE}/issued.json") == issued
    finally:
        cluster.kubectl("scale", "deployment/kubenclave-issuer", "--replicas=1", "-n", NAMESPACE)
        cluster.kubectl("rollout", "status", "deployment/kubenclave-issuer", "-n", NAMESPACE, "--timeout=60s")


@pytest.mark.parametrize("account", ["default", "kubenclave-simulator"])
def test_the_issuer_serves_tokens_of_simulators_on_nodes_alone(cluster, tmp_path, account):
    """A token of another account is refused, and so is one of the right account that no node's pod holds."""
    (pod,) = component(cluster, "issuer")
    token = cluster.kubectl("create", "token", account, "-n", NAMESPACE, f"--audience={AUDIENCE}")
    (tmp_path / "token").write_text(token)
    issuer = IssuerAddress(pod["status"]["podIP"], 8080, tmp_path / "token")
    with pytest.raises(PlatformError) as caught:
        fetch(issuer, request_of(PlatformState.new(own_root=False)))
    assert "403 not a simulator of this cluster" in str(caught.value)
    (tmp_path / "token").write_text(cluster.token_for("kubenclave-simulator", NAMESPACE))
    with pytest.raises(KubenclaveError, match="a token for kubenclave-issuer"):
        fetch(issuer, request_of(PlatformState.new(own_root=False)))
