# SPDX-License-Identifier: Apache-2.0
"""The attestation service in a cluster: a pod's enclave gets a token that a relying party's library takes."""

import base64
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from tests.chart import NAMESPACE
from tests.cluster import release
from tests.cluster.release import EPC, SIMULATED
from tests.cluster.workloads import RESTRICTED, confidential, quote, restricted

# No storage class in the test cluster: what the service keeps goes with its pod.
KEPT = {"enabled": False}
VALUES = {
    **SIMULATED,
    "attestation": {
        "enabled": True,
        "open": True,
        "workers": 2,
        "persistence": KEPT,
        "signingKeys": {"rs256SecretName": "signing"},
        "secretsKeySecretName": "sealing",
    },
    "collateral": {"enabled": True, "persistence": KEPT},
}
SIGNING = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
URL = f"http://kubenclave-attestation.{NAMESPACE}.svc:8443"
ISSUER = f"{URL}/simulated"

# Runs in the pod: one request to the service, its answer on stdout.
ASK = """
import json, sys, urllib.error, urllib.request
method, url, body, token = sys.argv[1:]
headers = {"Content-Type": "application/json"} | ({"Authorization": "Bearer " + token} if token else {})
asked = urllib.request.Request(url, body.encode() or None, headers, method=method)
try:
    with urllib.request.urlopen(asked, timeout=30) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
"""


@pytest.fixture(scope="module", autouse=True)
def addon(cluster):
    """The add-on with the service and keys of the site's own, and a pod that is ready to have enclaves attested."""
    release.pool(cluster, "sgx-1")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.apply(secret("signing", "rs256.pem", SIGNING.decode()), NAMESPACE)
    cluster.apply(secret("sealing", "secrets.key", "5a" * 32), NAMESPACE)
    with release.installed(cluster, VALUES):
        restricted(cluster)
        cluster.apply(confidential("workload", {EPC: "16Mi"}), RESTRICTED)
        cluster.wait_pod("workload", RESTRICTED)
        yield
        cluster.delete("namespace", RESTRICTED)


def secret(name, key, value):
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {key: value}}


def ask(cluster, method, url, body="", token=""):
    told = cluster.exec("workload", "python", "-c", ASK, method, url, body, token, namespace=RESTRICTED)
    status, text = json.loads(told)
    return status, json.loads(text) if text.startswith(("{", "[")) else text


def encoded(content):
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def attested(cluster, content):
    return ask(cluster, "POST", f"{ISSUER}/attest/SgxEnclave?api-version=2022-08-01", json.dumps({"quote": content}))


def test_a_pod_is_attested_in_its_cluster_to_a_token_that_others_verify(cluster):
    content = quote(cluster, "workload", "c0ffee")
    cluster.wait(lambda: attested(cluster, encoded(content))[0] == 200, 120, "a first token", NAMESPACE)
    status, answer = attested(cluster, encoded(content))
    assert status == 200
    keys = jwt.PyJWKSet.from_dict(ask(cluster, "GET", f"{ISSUER}/certs")[1])
    key = keys[jwt.get_unverified_header(answer["token"])["kid"]]
    claims = jwt.decode(answer["token"], key, algorithms=["RS256"], issuer=ISSUER)
    assert claims["x-ms-attestation-type"] == "sgx"
    assert claims["x-ms-sgx-report-data"].startswith("c0ffee")


def test_the_service_signs_with_the_key_of_a_secret_and_seals_with_another(cluster):
    ours = load_pem_private_key(SIGNING, None).public_key()
    shown = jwt.PyJWKSet.from_dict(ask(cluster, "GET", f"{ISSUER}/certs")[1])
    assert ours in [each.key for each in shown.keys]
    make = "kubenclave attest credential create ops --role release-admin --state /state/attestation --output json"
    (pod,) = cluster.items("pods", NAMESPACE, "app.kubernetes.io/component=attestation")
    token = json.loads(cluster.exec(pod["metadata"]["name"], *make.split(), namespace=NAMESPACE))["token"]
    asked = ("GET", f"{ISSUER}/v1/secrets", "", token)
    assert ask(cluster, *asked) == (200, {"secrets": []})


def test_a_quote_that_was_changed_gets_no_token(cluster):
    content = bytearray(quote(cluster, "workload"))
    content[400] ^= 1
    status, answer = attested(cluster, encoded(bytes(content)))
    assert (status, "token" in answer) == (400, False)
    assert answer["error"]["code"]


@pytest.mark.parametrize("url", [URL, f"http://kubenclave-collateral.{NAMESPACE}.svc:8081"])
def test_both_services_have_the_collateral_of_the_cluster(cluster, url):
    status, text = ask(cluster, "GET", f"{url}/sgx/certification/v4/rootcacrl")
    assert status == 200
    assert bytes.fromhex(text)


def test_the_service_says_that_it_is_simulated_and_asks_nothing_of_the_api_server(cluster):
    (pod,) = cluster.items("pods", NAMESPACE, "app.kubernetes.io/component=attestation")
    log = cluster.kubectl("logs", "-n", NAMESPACE, pod["metadata"]["name"])
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert lines
    assert all(line["simulated"] for line in lines)
    assert not any("serviceaccount" in str(volume) for volume in pod["spec"]["volumes"])
