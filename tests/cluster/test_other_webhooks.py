# SPDX-License-Identifier: Apache-2.0
"""Beside another webhook that changes the same pods, and before or after ours by its name: Intel's own binary.

It adds what ours adds too, and a hostPath volume for AESM. While both are there (docs/migrate.md) pods get quotes.
"""

import base64
import json
import shutil

import pytest

from kubenclave.sgx.epc import Quantity
from tests.chart import NAMESPACE
from tests.cluster import release
from tests.cluster.harness.network import CONTROL_PLANE
from tests.cluster.harness.parts import Part
from tests.cluster.release import AZURE, EPC, SIMULATED
from tests.cluster.workloads import confidential, quote
from tools.kubernetes.build import TOOLS, built, place

ENCLAVE = "sgx.intel.com/enclave"
PORT = 9443
PLACE = "beside"


@pytest.fixture(scope="module")
def intel(cluster):
    """Where Intel's webhook is served, and by whose word: the client configuration of an API server."""
    if not built(TOOLS["intel"]):
        pytest.skip("Intel's webhook is not built: make cluster-tools")
    folder = cluster.folder / "intel-webhook"
    certificates = folder / "k8s-webhook-server" / "serving-certs"
    certificates.mkdir(parents=True)
    authority = cluster.control.authority
    certificate = authority.issue("intel-webhook", "intel-webhook", names=(CONTROL_PLANE,))
    shutil.copy(certificate, certificates / "tls.crt")
    shutil.copy(certificate.with_suffix(".key"), certificates / "tls.key")
    program = place(TOOLS["intel"]) / "bin/sgx_admissionwebhook"
    command = ["env", f"TMPDIR={folder}", f"KUBECONFIG={cluster.kubeconfig}", str(program)]
    webhook = Part("intel-webhook", command, cluster.logs)
    webhook.start()
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}})
    bundle = base64.b64encode(authority.certificate.read_bytes()).decode()
    yield {"url": f"https://{CONTROL_PLANE}:{PORT}/mutate--v1-pod", "caBundle": bundle}
    cluster.kubectl("delete", "namespace", PLACE)
    webhook.stop()


@pytest.fixture(scope="module", params=["policies", "webhook"])
def ours(cluster, request, intel):
    """Our admission, one way or the other; only where the server has both is there a choice."""
    if request.param == "policies" and "mutatingadmissionpolicies" not in cluster.kubectl(
        "api-resources", "-o", "name"
    ):
        pytest.skip("this server has no mutating policies")
    release.pool(cluster, "sgx-1")
    with release.installed(cluster, {**SIMULATED, "admission": {"mode": request.param}}):
        yield intel


@pytest.fixture(params=["aa-before.intel.com", "zz-after.intel.com"])
def both(cluster, request, ours):
    """Intel's webhook in force, before or after ours: API servers ask in the order of names."""
    hook = {
        "name": "sgx.mutator.webhooks.intel.com",
        "admissionReviewVersions": ["v1"],
        "clientConfig": ours,
        "failurePolicy": "Fail",  # Intel's is Ignore; here nothing shall be missed
        "reinvocationPolicy": "IfNeeded",
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": PLACE}},
        "sideEffects": "None",
    }
    kind = "MutatingWebhookConfiguration"
    made = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": request.param}}
    cluster.apply({**made, "webhooks": [hook]})
    plain = release.pod("plain", {EPC: "1Mi"}, PLACE)
    cluster.wait(lambda: created(cluster, plain)["metadata"].get("annotations"), 30, "both to answer", NAMESPACE)
    yield cluster
    cluster.kubectl("delete", kind, request.param)


def created(cluster, wanted):
    """The pod as the API server would store it."""
    text = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(wanted))
    return json.loads(text)


@pytest.mark.kubernetes_1_34
@pytest.mark.parametrize("limits", [{EPC: "10Mi"}, {AZURE: "10"}], ids=["intel", "azure"])
def test_a_pod_that_both_complete_has_everything_once_and_gets_a_quote(both, limits):
    """Intel's adds its variable and its volume each time it is asked: both are left as they are, and do no harm."""
    wanted = confidential("both", limits)
    wanted["metadata"]["namespace"] = PLACE
    both.apply(wanted, PLACE)
    made = both.wait_pod("both", PLACE)
    (container,) = made["spec"]["containers"]
    resources = container["resources"]
    size = limits.get(EPC, "10485760")
    assert resources["limits"] == resources["requests"] == {EPC: size, ENCLAVE: "1"}
    told = [entry["value"] for entry in container["env"] if entry["name"] == "SGX_AESM_ADDR"]
    assert set(told) == {"1"}
    keys = [toleration.get("key") for toleration in made["spec"]["tolerations"]]
    assert (keys.count(EPC), keys.count(AZURE)) == (1, 1)
    assert Quantity.parse(made["metadata"]["annotations"][EPC]).whole() == 10 << 20
    assert len(quote(both, "both", namespace=PLACE)) > 1000
    both.delete("pod", "both", PLACE)
