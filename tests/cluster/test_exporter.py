# SPDX-License-Identifier: Apache-2.0
"""The exporter on a real cluster: its figures are those of the API server, and it may do nothing else."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chart import NAMESPACE
from tests.cluster import release
from tests.cluster.release import AZURE, EPC, pod

MIB = 1 << 20
HELPER = 8 * MIB  # what the quote helper asks for itself
ACCOUNT = f"--as=system:serviceaccount:{NAMESPACE}:kubenclave-exporter"


@pytest.fixture(scope="module")
def addon(cluster):
    release.pool(cluster, "sgx-1")
    with release.installed(cluster, release.SIMULATED):
        yield cluster


def figures(cluster):
    """All samples, by name and the values of their labels."""
    (exporter,) = cluster.items("pods", NAMESPACE, "app.kubernetes.io/component=exporter")
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{exporter['metadata']['name']}:9445/proxy/metrics"
    text = cluster.kubectl("get", "--raw", path)
    return {
        (sample.name.removeprefix("kubenclave_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def until(cluster, **wanted):
    """Wait until these figures of sgx-1, or without label, are as given, in MiB."""

    def there():
        found = figures(cluster)
        return all(found.get((n, "sgx-1"), found.get((n,))) == size * MIB for n, size in wanted.items())

    cluster.wait(there, 30, str(wanted))


def test_figures_follow_pods_of_every_dialect(addon):
    until(addon, node_epc_capacity_bytes=256, node_epc_requested_bytes=8, node_epc_free_bytes=248)
    addon.apply([pod("one", {AZURE: "64"}), pod("two", {EPC: "32Mi"}), pod("waits", {EPC: "1Gi"})])
    try:
        until(addon, node_epc_requested_bytes=104, node_epc_free_bytes=152, epc_pending_bytes=1024)
        found = figures(addon)
        assert found["pod_epc_requested_bytes", "default", "one", "sgx-1"] == 64 * MIB
        assert found["namespace_epc_requested_bytes", "default"] == 96 * MIB
        assert found["namespace_epc_requested_bytes", NAMESPACE] == HELPER
        assert (found["epc_pods", "scheduled"], found["epc_pods", "pending"]) == (3, 1)
        assert found["node_epc_overcommitted_bytes", "sgx-1"] == 0
        assert found["node_sgx_ready", "sgx-1"] == found["node_simulated", "sgx-1"] == 1
        assert ("node_sgx_ready", "plain-1") not in found
    finally:
        for name in ("one", "two", "waits"):
            addon.delete("pod", name)
    until(addon, node_epc_requested_bytes=8, epc_pending_bytes=0)


def largest(cluster):
    return cluster.get("configmap", "kubenclave-capacity", NAMESPACE).get("data", {}).get("largestNodeEpc")


def test_admission_is_told_the_largest_node_and_again_after_a_restart(addon):
    addon.wait(lambda: largest(addon) == str(256 * MIB), 30, "the ConfigMap", NAMESPACE)
    addon.kubectl("-n", NAMESPACE, "patch", "configmap", "kubenclave-capacity", "-p", '{"data":{"largestNodeEpc":"1"}}')
    addon.kubectl("-n", NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/component=exporter")
    addon.wait(lambda: largest(addon) == str(256 * MIB), 30, "the ConfigMap", NAMESPACE)
    release.helm(addon, "upgrade", release.SIMULATED | {"exporter": {"perPod": False}})
    assert largest(addon) == str(256 * MIB)
    addon.wait(lambda: ("epc_largest_node_bytes",) in figures(addon), 30, "the exporter to be back", NAMESPACE)
    assert not any(name == "pod_epc_requested_bytes" for name, *_ in figures(addon))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (("list", "pods", "-A"), "yes"),
        (("watch", "nodes"), "yes"),
        (("patch", "configmap/kubenclave-capacity", "-n", NAMESPACE), "yes"),
        (("patch", "configmap/other", "-n", NAMESPACE), "no"),
        (("get", "secrets", "-n", NAMESPACE), "no"),
        (("patch", "nodes"), "no"),
        (("delete", "pods", "-n", NAMESPACE), "no"),
    ],
)
def test_it_may_do_what_it_does_and_no_more(addon, question, answer):
    script = ["auth", "can-i", *question, ACCOUNT]
    try:
        told = addon.kubectl(*script)
    except Exception as refused:  # noqa: BLE001 - kubectl ends with 1 for no
        told = str(refused)
    assert answer in told.split()
