# SPDX-License-Identifier: Apache-2.0
"""The webhook on a real API server: what it does to pods, and that no change of it lets a pod slip or wait."""

import base64
import json
import time

import pytest

from tests.admission_cases import CAPACITY, CASES, DEVICES, GRANTED, MIGRATING
from tests.admission_cases import NAMESPACE as NAMESPACE_OF_CASES
from tests.chart import NAMESPACE
from tests.cluster import admission, release
from tests.cluster.creation import ENCLAVE, Throughout, sgx_pod, treated
from tests.cluster.harness.parts import HarnessError
from tests.cluster.release import AZURE, EPC, pod

NAME = "kubenclave-webhook"
SECRET = "kubenclave-webhook-tls"
VALUES: release.Values = {
    "image": release.TEST_IMAGE,
    "admission": {"mode": "webhook"},
    "quoteHelper": {"enabled": False},
    "exporter": {"enabled": False},
    "provision": {"allowed": [{"namespace": NAMESPACE_OF_CASES, "serviceAccounts": [GRANTED]}]},
}
# Short lives: a CA issues for about 40 seconds, a leaf is served for 20.
LIVES = {"authorityLifetime": "60s", "leafLifetime": "30s", "settle": "5s"}
SHORT: release.Values = {**VALUES, "webhook": {"certificates": LIVES}}


@pytest.fixture(scope="module")
def webhook(cluster):
    with release.installed(cluster, VALUES):
        cluster.wait(lambda: created(cluster, sgx_pod()), 60, "the webhook to be trusted")
        yield cluster


def created(cluster, wanted, *options):
    """The pod as the API server would store it. Raises HarnessError with its refusal."""
    text = cluster.kubectl("create", "--dry-run=server", "-o", "json", *options, "-f", "-", text=json.dumps(wanted))
    return json.loads(text)


def bundle(cluster):
    """The CAs that the API server trusts."""
    (hook,) = cluster.get("mutatingwebhookconfiguration", NAME)["webhooks"]
    return base64.b64decode(hook["clientConfig"].get("caBundle", ""))


def metric(cluster, name):
    """Sum of a metric over the replicas."""
    found = 0.0
    for each in replicas(cluster):
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{each}:9444/proxy/metrics"
        for line in cluster.kubectl("get", "--raw", path).splitlines():
            if line.startswith(name):
                found += float(line.rsplit(" ", 1)[1])
    return found


def running(cluster):
    """The replicas, and those that are about to go."""
    return cluster.items("pod", NAMESPACE, "app.kubernetes.io/component=webhook")


def settled(cluster, count=2):
    """Wait until so many replicas are ready, and those before them gone."""

    def there():
        found = [
            {one["type"] for one in each["status"]["conditions"] if one["status"] == "True"}
            for each in running(cluster)
        ]
        return len(found) == count and all("Ready" in each for each in found)

    cluster.wait(there, 90, f"{count} replicas", NAMESPACE)


def replicas(cluster):
    """Names of the replicas that stay."""
    return [each["metadata"]["name"] for each in running(cluster) if "deletionTimestamp" not in each["metadata"]]


@pytest.mark.kubernetes_1_34
@pytest.mark.parametrize("rules", [DEVICES, MIGRATING, CAPACITY], ids=["devices", "migrating", "capacity"])
def test_the_cases_of_admission(webhook, rules):
    admission.prepare(webhook)
    more = {"mode": "webhook", "enclaveWithoutEpc": rules.enclave_without_epc.value}
    release.helm(webhook, "upgrade", {**VALUES, "epcMode": rules.epc_mode.value, "admission": more})
    settled(webhook)
    for case in (case for case in CASES.values() if case.rules == rules):
        admission.check(webhook, case, ours_first=True)


def test_a_generated_name_is_no_obstacle(webhook):
    made = created(webhook, sgx_pod())
    assert made["metadata"]["generateName"]
    assert treated(made)


def test_what_is_created_is_what_the_dry_run_showed(webhook):
    webhook.apply(pod("real", {AZURE: "1"}))
    assert treated(webhook.get("pod", "real"))
    webhook.delete("pod", "real")


def test_controllers_meet_it_too(webhook):
    template = {"metadata": {"labels": {"app": "c"}}, "spec": sgx_pod()["spec"]}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "c"}}, "template": template}
    webhook.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "c"}, "spec": spec})
    (made,) = webhook.wait(lambda: webhook.items("pod", selector="app=c"), 30, "the Deployment's pod")
    assert treated(made)
    webhook.delete("deployment", "c")


def test_refusals_say_why_and_what_next(webhook):
    with pytest.raises(HarnessError) as caught:
        created(webhook, sgx_pod({AZURE: "1", "sgx.intel.com/provision": "1"}))
    assert "admission.provision-refused" in str(caught.value)
    assert "provision.allowed" in str(caught.value)


def test_other_pods_never_meet_it(webhook):
    before = metric(webhook, "kubenclave_admission_seconds_count")
    created(webhook, pod("plain", {"cpu": "1"}))
    # Nor do those of its own namespace: it could not come back without itself.
    made = created(webhook, pod("ours", {EPC: "1Mi", ENCLAVE: "1"}, NAMESPACE))
    assert EPC in made["spec"]["containers"][0]["resources"]["limits"]
    assert metric(webhook, "kubenclave_admission_seconds_count") == before
    created(webhook, sgx_pod())
    assert metric(webhook, "kubenclave_admission_seconds_count") > before


@pytest.mark.parametrize(
    "change",
    [
        {"op": "replace", "path": "/webhooks/0/rules/0/resources", "value": ["secrets"]},
        {"op": "remove", "path": "/webhooks/0/matchConditions"},
        {"op": "remove", "path": "/webhooks/0/namespaceSelector"},
        {"op": "replace", "path": "/webhooks/0/clientConfig/service/namespace", "value": "default"},
        {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"},
        {"op": "replace", "path": "/webhooks", "value": []},
        {"op": "remove", "path": "/metadata/labels"},
    ],
    ids=lambda change: change["path"],
)
def test_of_its_configuration_it_changes_the_ca_only(webhook, change):
    account = f"--as=system:serviceaccount:{NAMESPACE}:{NAME}"
    patch = [account, "patch", "mutatingwebhookconfiguration", NAME, "--dry-run=server", "--type=json", "-p"]
    with pytest.raises(HarnessError, match="changes the CA only"):
        webhook.kubectl(*patch, json.dumps([change]))


def test_upgrade_and_rollback_leave_certificates_alone_and_nobody_waits(webhook):
    trusted, secret = bundle(webhook), webhook.get("secret", SECRET, NAMESPACE)["data"]
    with Throughout(webhook.kubeconfig) as pods:
        release.helm(webhook, "upgrade", {**VALUES, "webhook": {"podAnnotations": {"upgrade": "1"}}})
        release.rollback(webhook)
        settled(webhook)
    assert trusted == bundle(webhook)
    assert secret == webhook.get("secret", SECRET, NAMESPACE)["data"]
    assert pods.created > 20
    assert (pods.refused, pods.untreated) == ([], [])


def test_a_replica_that_is_deleted_is_not_missed(webhook):
    with Throughout(webhook.kubeconfig) as pods:
        webhook.kubectl("delete", "pod", replicas(webhook)[0], "-n", NAMESPACE)
        settled(webhook)
    assert (pods.refused, pods.untreated) == ([], [])


@pytest.mark.kubernetes_1_34
def test_while_it_is_down_sgx_pods_are_refused_and_others_pass(webhook):
    webhook.kubectl("scale", "deployment", NAME, "-n", NAMESPACE, "--replicas=0")
    webhook.wait(lambda: not running(webhook), 60, "no replica")
    with pytest.raises(HarnessError) as caught:
        created(webhook, sgx_pod())
    assert "failed calling webhook" in str(caught.value)
    assert created(webhook, pod("plain", {"cpu": "1"}))
    # Its own pods can come back: they never meet it.
    webhook.kubectl("scale", "deployment", NAME, "-n", NAMESPACE, "--replicas=2")
    webhook.wait(lambda: created(webhook, sgx_pod()), 60, "the webhook to be back")


def test_a_killed_replica_lets_nothing_slip(webhook):
    with Throughout(webhook.kubeconfig) as pods:
        webhook.kubectl("delete", "pod", replicas(webhook)[0], "-n", NAMESPACE, "--grace-period=0", "--force")
        settled(webhook)
    assert pods.untreated == []
    assert len(pods.refused) <= 2, pods.refused


def test_certificates_rotate_while_pods_are_created(webhook):
    with Throughout(webhook.kubeconfig) as pods:
        release.helm(webhook, "upgrade", SHORT)
        seen = set()
        until = time.monotonic() + 100
        while time.monotonic() < until:
            seen.add(bundle(webhook))
            time.sleep(1)
    assert len(seen) >= 4, "at least two rotations: both CAs trusted, then one of them gone"
    assert (pods.refused, pods.untreated) == ([], [])
    assert pods.created > 500


def test_from_webhook_to_policies_and_back_nobody_slips_through(webhook):
    if "mutatingadmissionpolicies" not in webhook.kubectl("api-resources", "-o", "name"):
        pytest.skip("this server has no mutating policies")
    for mode in ("policies", "webhook", "policies"):
        with Throughout(webhook.kubeconfig) as pods:
            release.helm(webhook, "upgrade", {**VALUES, "admission": {"mode": mode}})
            ready = time.monotonic()
            settled(webhook, 0 if mode == "policies" else 2)
            pods.more(50)
        assert pods.untreated == []
        assert pods.created > 20
        if mode == "policies":
            # The API server may take a second to notice new policies.
            assert pods.longest_refusal < 5, pods.refused
        else:
            # Helm removes the policies before the first replica is ready.
            assert [said for when, said in pods.refused if when > ready + 1] == []
