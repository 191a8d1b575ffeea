# SPDX-License-Identifier: Apache-2.0
"""Admission by policies on a real API server: the shared cases, pods by chance, and the accidents of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kubenclave.cluster.admission import Rules
from kubenclave.cluster.admission.table import CAPACITY_CONFIG, LARGEST_KEY
from kubenclave.cluster.policies import QUOTE_HELPER_ACCOUNT
from tests.admission_cases import (
    AZURE,
    CAPACITY,
    CASES,
    DEVICES,
    ENCLAVE,
    EPC,
    GRANTED,
    MIGRATING,
    NAMESPACE,
    PROVISION,
    container,
    one,
    one_on_a_node,
    pod,
)
from tests.cluster import admission
from tests.cluster.harness.cluster import Cluster

RULES = {"capacity": CAPACITY, "devices": DEVICES, "migrating": MIGRATING}
Policies = Callable[..., Cluster]
BUSYBOX = "kubenclave.test/busybox:test"


@pytest.fixture(scope="module")
def policies(cluster: Cluster):
    """A function that puts the policies of some rules in force, where they are not yet."""
    admission.prepare(cluster)
    now: list[Any] = []

    def install(rules: Rules = CAPACITY, *, mutating: bool = True) -> Cluster:
        if now != [rules, mutating]:
            admission.install(cluster, rules, mutating=mutating)
            now[:] = [rules, mutating]
        return cluster

    yield install
    admission.uninstall(cluster)


def limits_of(made: dict[str, Any] | None, index: int = 0) -> dict[str, str]:
    assert made is not None
    limits: dict[str, str] = made["spec"]["containers"][index]["resources"]["limits"]
    return limits


@pytest.mark.parametrize(
    ("rules", "name"), sorted((r, n) for n, c in CASES.items() for r in RULES if RULES[r] == c.rules)
)
def test_the_api_server_does_what_the_table_says(policies: Policies, rules: str, name: str):
    admission.check(policies(RULES[rules]), CASES[name])


@pytest.mark.parametrize("rules", RULES)
def test_pods_by_chance_are_treated_as_admit_treats_them(policies: Policies, rules: str):
    for seed in range(25):
        admission.check_random(policies(RULES[rules]), seed, RULES[rules])


@pytest.mark.kubernetes_1_34
@pytest.mark.parametrize("rules", RULES)
def test_the_validating_half_alone_agrees_with_the_table(policies: Policies, rules: str):
    cluster = policies(RULES[rules], mutating=False)
    for case in (case for case in CASES.values() if case.rules == RULES[rules]):
        admission.check_validating(cluster, case)


@pytest.mark.kubernetes_1_34
@pytest.mark.parametrize(
    ("made", "code"),
    [
        (one({AZURE: 1}), "admission.untranslated"),
        (one({EPC: "1Mi"}), "admission.enclave-missing"),
        (one_on_a_node({EPC: "1Mi", ENCLAVE: 1}), "admission.node-unchecked"),
    ],
    ids=["Azure's name", "no enclave", "past the scheduler"],
)
def test_without_the_mutating_half_no_pod_starts_half_equipped(policies: Policies, made, code):
    answer = admission.create(policies(mutating=False), made)
    assert answer.codes == [code]


def test_a_pod_that_names_a_node_without_sgx_does_not_start_there(policies: Policies):
    cluster = policies()
    made = one_on_a_node({AZURE: 1})
    made["spec"]["nodeName"] = "plain-1"
    assert admission.create(cluster, made, dry_run=False).pod is not None
    try:
        assert cluster.wait_pod("case", NAMESPACE, phase="Failed")["status"]["reason"] == "NodeAffinity"
    finally:
        cluster.delete("pod", "case", NAMESPACE)


@pytest.mark.kubernetes_1_34
def test_without_the_mutating_half_complete_pods_and_pods_of_others_pass(policies: Policies):
    cluster = policies(mutating=False)
    assert admission.create(cluster, one({EPC: "1Mi", ENCLAVE: 1})).pod is not None
    assert admission.create(cluster, one({"cpu": 1})).pod is not None


def test_only_the_quote_helper_has_the_provisioning_key_in_our_own_namespace(policies: Policies):
    cluster = policies()
    made = one({EPC: "1Mi", ENCLAVE: 1, PROVISION: 1})
    refused = admission.create(cluster, made, admission.OWN_NAMESPACE)
    assert refused.codes == ["admission.provision-refused"]
    helper = {**made, "spec": {**made["spec"], "serviceAccountName": QUOTE_HELPER_ACCOUNT}}
    assert admission.create(cluster, helper, admission.OWN_NAMESPACE).pod is not None
    assert (
        admission.create(cluster, {**helper, "spec": {**helper["spec"], "serviceAccountName": "default"}}).pod is None
    )


def test_our_own_namespace_is_not_mutated_and_so_cannot_lock_itself_out(policies: Policies):
    answer = admission.create(policies(), one({AZURE: 1}), admission.OWN_NAMESPACE)
    assert answer.codes == ["admission.untranslated"]


def test_a_pod_larger_than_any_node_is_admitted_with_a_warning_that_names_the_largest(policies: Policies):
    cluster = policies()
    made = pod(container("app", {AZURE: 65}), initContainers=[container("first", {EPC: "10Mi"})])
    assert "exceeds" not in admission.create(cluster, made).said
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CAPACITY_CONFIG}}
    cluster.apply({**config, "data": {LARGEST_KEY: str(64 << 20)}}, admission.OWN_NAMESPACE)
    try:
        cluster.wait(lambda: "admission.exceeds-nodes" in admission.create(cluster, made).codes, 30, "the warning")
        answer = admission.create(cluster, made)
        assert answer.pod is not None
        assert f"at most {64 << 20} bytes" in answer.said
        assert f"found {65 << 20}" in answer.said
        assert "exceeds" not in admission.create(cluster, one({AZURE: 64})).said
    finally:
        cluster.delete("configmap", CAPACITY_CONFIG, admission.OWN_NAMESPACE)


def test_the_audit_log_says_who_got_the_provisioning_key(policies: Policies):
    cluster = policies()
    made = one({EPC: "1Mi", PROVISION: 1}, serviceAccountName=GRANTED)
    assert admission.create(cluster, made).pod is not None

    def annotations() -> list[str]:
        return [str(event.get("annotations", {}).get("kubenclave-provision/provision")) for event in cluster.audit()]

    cluster.wait(lambda: "app: granted" in annotations(), 10, "the audit log")


# What happened to others.


def test_names_that_the_server_makes(policies: Policies):
    made = one({AZURE: 1})
    made["metadata"] = {"generateName": "case-"}
    assert limits_of(admission.create(policies(), made).pod) == {EPC: "1048576", ENCLAVE: "1"}


def test_a_dry_run_leaves_nothing_and_a_pod_is_kept_as_the_dry_run_said(policies: Policies):
    cluster = policies()
    made = one({AZURE: 1})
    said = admission.create(cluster, made)
    assert not cluster.items("pods", NAMESPACE)
    kept = admission.create(cluster, made, dry_run=False)
    try:
        assert limits_of(kept.pod) == limits_of(said.pod)
    finally:
        cluster.delete("pod", "case", NAMESPACE)


def test_pods_without_resources_start_where_the_only_node_is_an_sgx_node(policies: Policies):
    cluster = policies()
    spec: dict[str, Any] = {"nodeName": "sgx-1", "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    made = pod({"name": "app", "image": BUSYBOX, "command": ["true"], "imagePullPolicy": "Never"}, **spec)
    assert admission.create(cluster, made, dry_run=False).pod is not None
    cluster.wait_pod("case", NAMESPACE, phase="Succeeded")
    cluster.delete("pod", "case", NAMESPACE)


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_that_controllers_make(policies: Policies, kind: str):
    cluster = policies()
    labels = {"app": kind.lower()}
    template = {"metadata": {"labels": labels}, "spec": one({AZURE: 1})["spec"]}
    spec: dict[str, Any] = {"template": template}
    if kind == "Deployment":
        spec["selector"] = {"matchLabels": labels}
    else:
        template["spec"]["restartPolicy"] = "Never"
    version = {"Deployment": "apps/v1", "Job": "batch/v1"}[kind]
    cluster.apply({"apiVersion": version, "kind": kind, "metadata": {"name": "made"}, "spec": spec}, NAMESPACE)
    try:
        made = cluster.wait(lambda: cluster.items("pods", NAMESPACE, f"app={kind.lower()}"), 30, "the controller's pod")
        assert limits_of(made[0]) == {EPC: "1048576", ENCLAVE: "1"}
    finally:
        cluster.kubectl("delete", kind.lower(), "made", "-n", NAMESPACE, "--cascade=foreground")


OTHER = """
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: zz-injects-later}
spec:
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  matchConditions:
    - {name: marked, expression: "object.?metadata.?labels.orValue({}).?inject.orValue('') == 'yes'"}
    - {name: once, expression: "!object.spec.containers.exists(c, c.name == 'injected')"}
  mutations:
    - patchType: JSONPatch
      jsonPatch:
        expression: >-
          [JSONPatch{op: "add", path: "/spec/containers/-", value: {"name": dyn("injected"), "image": dyn("i"),
          "resources": dyn({"limits": {"kubernetes.azure.com/sgx_epc_mem_in_MiB": "2"}})}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: zz-injects-later}
spec: {policyName: zz-injects-later}
"""


def injects(cluster: Cluster) -> None:
    """Put the other policy in force."""
    cluster.apply(OTHER)
    probe = pod(container("app"))
    probe["metadata"]["labels"] = {"inject": "yes"}
    cluster.wait(lambda: admission.create(cluster, probe).said or len(containers(cluster, probe)) == 2, 30, "the other")


def containers(cluster: Cluster, made: dict[str, Any]) -> list[dict[str, Any]]:
    answer = admission.create(cluster, made)
    found: list[dict[str, Any]] = answer.pod["spec"]["containers"] if answer.pod else []
    return found


def test_what_another_admission_adds_to_an_sgx_pod_after_us_is_translated_as_well(policies: Policies):
    cluster = policies()
    injects(cluster)
    try:
        made = pod(container("app", {AZURE: 1}), provider="aesmd")
        made["metadata"]["labels"] = {"inject": "yes"}
        after = admission.create(cluster, made).pod
        assert after is not None
        assert limits_of(after, 1) == {EPC: "2097152", ENCLAVE: "1"}
        assert after["metadata"]["annotations"][EPC] == str(3 << 20)
        keys = [one.get("key") for one in after["spec"]["tolerations"]]
        assert (keys.count(EPC), keys.count(AZURE)) == (1, 1)
        for each in after["spec"]["containers"]:
            assert [entry["name"] for entry in each["env"]] == ["SGX_AESM_ADDR"]
    finally:
        cluster.kubectl("delete", "-f", "-", text=OTHER)


def test_what_another_admission_makes_an_sgx_pod_after_us_is_refused_and_never_half_equipped(policies: Policies):
    # Kubernetes asks again only whom it has asked before; whether ours comes before the other is left to chance.
    cluster = policies()
    injects(cluster)
    try:
        made = pod(container("app"))
        made["metadata"]["labels"] = {"inject": "yes"}
        answer = admission.create(cluster, made)
        if answer.pod is None:
            assert answer.codes == ["admission.untranslated"]
            assert "another one added it later" in answer.said
        else:
            assert limits_of(answer.pod, 1) == {EPC: "2097152", ENCLAVE: "1"}
    finally:
        cluster.kubectl("delete", "-f", "-", text=OTHER)
