# SPDX-License-Identifier: Apache-2.0
"""Admission: a table of pods and what becomes of them, then what no single row shows."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.admission import DIALECTS, QUOTE_PROVIDER, ContainerKind, admit
from kubenclave.errors import FormatError, PolicyError

EPC = "sgx.intel.com/epc"
ENCLAVE = "sgx.intel.com/enclave"
PROVISION = "sgx.intel.com/provision"
AZURE = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
ALIBABA = "alibabacloud.com/sgx_epc_MiB"
SLIP = "sgx.intel.com/sgx_epc_mem_in_MiB"


def pod(limits=None, requests=None, *, provider=None, name="app", **more) -> dict[str, Any]:
    resources = {key: value for key, value in (("limits", limits), ("requests", requests)) if value is not None}
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", **({"annotations": {QUOTE_PROVIDER: provider}} if provider else {})},
        "spec": {"containers": [{"name": name, "image": "i", "resources": resources, **more}]},
    }
    return made


ACCEPTED = {
    "intel": ({EPC: "10Mi"}, None, {EPC: "10Mi", ENCLAVE: "1"}, None, 10 << 20),
    "intel, defaulted": (
        {EPC: "10Mi"},
        {EPC: "10Mi"},
        {EPC: "10Mi", ENCLAVE: "1"},
        {EPC: "10Mi", ENCLAVE: "1"},
        10 << 20,
    ),
    "azure": ({AZURE: 10}, None, {EPC: "10485760", ENCLAVE: "1"}, None, 10 << 20),
    "azure, defaulted": (
        {AZURE: "10", "cpu": "1"},
        {AZURE: 10, "cpu": "500m"},
        {"cpu": "1", EPC: "10485760", ENCLAVE: "1"},
        {"cpu": "500m", EPC: "10485760", ENCLAVE: "1"},
        10 << 20,
    ),
    "azure in thousands": ({AZURE: "1k"}, None, {EPC: "1048576000", ENCLAVE: "1"}, None, 1000 << 20),
    "alibaba": ({ALIBABA: "2"}, None, {EPC: "2097152", ENCLAVE: "1"}, None, 2 << 20),
    "the slip": ({SLIP: "3"}, None, {EPC: "3145728", ENCLAVE: "1"}, None, 3 << 20),
    "two dialects that agree": ({AZURE: 5, EPC: "5Mi"}, None, {EPC: "5Mi", ENCLAVE: "1"}, None, 5 << 20),
    "its own enclaves": ({EPC: "1Mi", ENCLAVE: 2}, None, {EPC: "1Mi", ENCLAVE: 2}, None, 1 << 20),
    "equal in other words": (
        {EPC: "1Mi"},
        {EPC: "1024Ki"},
        {EPC: "1Mi", ENCLAVE: "1"},
        {EPC: "1024Ki", ENCLAVE: "1"},
        1 << 20,
    ),
    "no SGX at all": ({"cpu": "1"}, {"cpu": "1"}, {"cpu": "1"}, {"cpu": "1"}, 0),
}

REFUSED = {
    "requests differ": ({EPC: "10Mi"}, {EPC: "5Mi"}, ["admission.requests-differ"]),
    "requests differ in a dialect": ({AZURE: 10}, {AZURE: 5}, ["admission.requests-differ"]),
    "requests only": (None, {EPC: "10Mi"}, ["admission.no-limit"]),
    "a fraction": ({EPC: "0.5"}, None, ["admission.amount"]),
    "a negative amount": ({AZURE: "-1"}, None, ["admission.amount"]),
    "no quantity": ({EPC: "much"}, None, ["admission.amount"]),
    "a float": ({EPC: 1.5}, None, ["admission.amount"]),
    "nothing asked for": ({EPC: "0"}, None, ["admission.epc-amount"]),
    "more than there are bytes": ({AZURE: "1E"}, None, ["admission.epc-amount"]),
    "dialects that disagree": ({AZURE: 10, EPC: "5Mi"}, None, ["admission.dialects-disagree"]),
    "an enclave without EPC": ({ENCLAVE: 1}, None, ["admission.epc-missing"]),
    "EPC without an enclave": ({EPC: "1Mi", ENCLAVE: 0}, None, ["admission.enclave-missing"]),
    "provision not granted": ({EPC: "1Mi", PROVISION: 1}, None, ["admission.provision-refused"]),
    "all reasons at once": (
        {EPC: "1Mi", ENCLAVE: 0, PROVISION: 1},
        None,
        ["admission.enclave-missing", "admission.provision-refused"],
    ),
}


@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted_pods_come_out_in_one_dialect(case):
    limits, requests, limits_after, requests_after, epc = case
    given_pod = pod(limits, requests)
    untouched = copy.deepcopy(given_pod)
    admitted = admit(given_pod)
    resources = admitted.pod["spec"]["containers"][0]["resources"]
    assert given_pod == untouched
    assert resources.get("limits") == limits_after
    assert resources.get("requests") == requests_after
    assert admitted.epc == epc
    assert admitted.asks[0].sgx == bool(epc)


@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_applying_the_rules_again_changes_nothing(case):
    once = admit(pod(case[0], case[1], provider="aesmd"))
    twice = admit(once.pod)
    assert twice == once


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_pods_that_cannot_be_meant_are_refused_with_every_reason(case):
    limits, requests, codes = case
    with pytest.raises(PolicyError) as caught:
        admit(pod(limits, requests))
    assert [finding.code for finding in caught.value.findings] == codes
    assert all(finding.field.startswith("container app: ") for finding in caught.value.findings)


def test_reasons_of_all_containers_are_told_together():
    two = pod({EPC: "0"})
    two["spec"]["containers"].append({"name": "other", "resources": {"limits": {ENCLAVE: "1"}}})
    with pytest.raises(PolicyError) as caught:
        admit(two)
    assert [finding.code for finding in caught.value.findings] == ["admission.epc-amount", "admission.epc-missing"]


def test_provision_by_name_and_by_annotation_for_whom_it_is_granted():
    by_name = admit(pod({EPC: "1Mi", PROVISION: 1}), provision_granted=True)
    assert by_name.asks[0].provision == 1
    by_annotation = admit(pod({EPC: "1Mi"}, provider="app"), provision_granted=True)
    assert by_annotation.pod["spec"]["containers"][0]["resources"]["limits"][PROVISION] == "1"
    with pytest.raises(PolicyError) as caught:
        admit(pod({EPC: "1Mi"}, provider="app"))
    assert caught.value.code == "admission.provision-refused"
    assert "--grant-provision" in (caught.value.hint or "")
    assert admit(pod({EPC: "1Mi", PROVISION: 0}, provider="app")).asks[0].provision == 0


def test_a_container_called_aesmd_does_not_get_the_provisioning_key_by_its_name():
    assert admit(pod({EPC: "1Mi"}, name="aesmd", provider="aesmd")).asks[0].provision == 0


def test_the_annotation_tells_containers_with_epc_where_quotes_come_from():
    asked = pod({EPC: "1Mi"}, provider="aesmd")
    asked["spec"]["containers"].append({"name": "plain"})
    first, second = admit(asked).pod["spec"]["containers"]
    assert first["env"] == [{"name": "SGX_AESM_ADDR", "value": "1"}]
    assert "env" not in second


def test_the_users_own_word_on_quotes_is_kept():
    env = [{"name": "SGX_AESM_ADDR", "value": "0"}]
    assert admit(pod({EPC: "1Mi"}, provider="aesmd", env=env)).pod["spec"]["containers"][0]["env"] == env


def test_azures_mount_of_the_aesm_directory_goes_because_the_device_brings_it():
    azure = pod({AZURE: 10}, volumeMounts=[{"name": "aesm", "mountPath": "/var/run/aesmd"}])
    azure["spec"]["volumes"] = [{"name": "aesm", "hostPath": {"path": "/var/run/aesmd/"}}]
    spec = admit(azure).pod["spec"]
    assert "volumes" not in spec
    assert "volumeMounts" not in spec["containers"][0]


def test_other_volumes_and_mounts_of_others_stay():
    azure = pod(
        {AZURE: 10},
        volumeMounts=[
            {"name": "aesm", "mountPath": "/run/aesmd"},
            {"name": "aesm", "mountPath": "/somewhere/else"},
            {"name": "data", "mountPath": "/data"},
        ],
    )
    volumes = [{"name": "aesm", "hostPath": {"path": "/var/run/aesmd"}}, {"name": "data", "emptyDir": {}}]
    azure["spec"]["volumes"] = volumes
    spec = admit(azure).pod["spec"]
    assert spec["volumes"] == volumes
    assert [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]] == ["/somewhere/else", "/data"]


def test_init_containers_and_sidecars_are_counted_as_the_scheduler_does():
    limits = {"limits": {EPC: "10"}}
    whole = pod({EPC: "20"})
    whole["spec"]["initContainers"] = [
        {"name": "first", "resources": {"limits": {EPC: "25"}}},
        {"name": "side", "restartPolicy": "Always", "resources": limits},
        {"name": "second", "resources": {"limits": {EPC: "21"}}},
    ]
    admitted = admit(whole)
    assert [ask.kind for ask in admitted.asks] == [
        ContainerKind.INIT,
        ContainerKind.SIDECAR,
        ContainerKind.INIT,
        ContainerKind.MAIN,
    ]
    assert admitted.epc == 31  # the second init container beside the sidecar
    assert admitted.pod["spec"]["initContainers"][0]["resources"]["limits"][ENCLAVE] == "1"


@pytest.mark.parametrize("resource", [EPC, AZURE, ENCLAVE, PROVISION])
@pytest.mark.parametrize("key", ["limits", "requests"])
def test_what_is_asked_for_where_nobody_counts_it_is_refused_and_not_overlooked(resource, key):
    made = pod({EPC: "64Mi"})
    made["spec"]["resources"] = {key: {resource: 1, "cpu": 1}}
    made["spec"]["ephemeralContainers"] = [{"name": "debug", "resources": {key: {resource: 1}}}]
    with pytest.raises(PolicyError) as caught:
        admit(made)
    assert [(one.code, one.field) for one in caught.value.findings] == [
        ("admission.misplaced", f"pod: {key}.{resource}"),
        ("admission.misplaced", f"ephemeral container debug: {key}.{resource}"),
    ]


def test_other_resources_of_the_pod_and_of_ephemeral_containers_are_none_of_ours():
    made = pod({EPC: "64Mi"})
    made["spec"] |= {"resources": {"limits": {"cpu": 1}}, "ephemeralContainers": [{"name": "debug"}]}
    assert admit(made).epc == 64 << 20


def test_annotations_without_effect_are_noted():
    assert "neither" in admit(pod({EPC: "1Mi"}, provider="nobody")).notes[0]
    assert "no container asks" in admit(pod({}, provider="aesmd")).notes[0]


def nested(depth):
    """A pod with objects in objects in objects."""
    inner: dict[str, object] = {}
    for _ in range(depth):
        inner = {"x": inner}
    return {"spec": {"containers": []}, "status": inner}


def test_names_that_are_no_text_are_left_to_the_api_server():
    changed = pod({EPC: "1Mi"}, provider="aesmd")
    changed["spec"]["containers"][0]["volumeMounts"] = [{"name": [], "mountPath": "/var/run/aesmd"}]
    changed["spec"]["volumes"] = [{"name": {}, "hostPath": {"path": "/var/run/aesmd"}}]
    assert admit(changed).pod["spec"]["volumes"] == changed["spec"]["volumes"]


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"spec": []},
        {"spec": {"containers": {}}},
        {"spec": {"containers": ["app"]}},
        {"spec": {"containers": [{"name": "a", "resources": {"limits": ["x"]}}]}},
        {"spec": {"containers": [{"name": "a", "resources": {"limits": {EPC: 1}}, "env": {}}]}},
        {"metadata": {"annotations": {QUOTE_PROVIDER: 1}}, "spec": {"containers": []}},
        {"metadata": "p", "spec": {"containers": []}},
        nested(5000),
    ],
    ids=[
        "no spec",
        "spec a list",
        "containers an object",
        "container a string",
        "limits a list",
        "env an object",
        "annotation a number",
        "metadata a string",
        "depth",
    ],
)
def test_what_is_no_pod_is_a_format_error(broken):
    with pytest.raises(FormatError) as caught:
        admit(broken)
    assert caught.value.code == "admission.shape"


values = st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(["1Mi", "10", "0"])
names = st.sampled_from([dialect.resource for dialect in DIALECTS] + [ENCLAVE, PROVISION, "cpu"])
amounts = st.dictionaries(names, values, max_size=4)


@given(limits=amounts, requests=amounts, granted=st.booleans(), provider=st.sampled_from([None, "aesmd", "app"]))
def test_whatever_is_asked_for_is_admitted_for_good_or_refused(limits, requests, granted, provider):
    try:
        admitted = admit(pod(limits, requests, provider=provider), provision_granted=granted)
    except PolicyError:
        return
    assert admit(admitted.pod, provision_granted=granted) == admitted
    after = admitted.pod["spec"]["containers"][0]["resources"]["limits"]
    assert (EPC in after) == (admitted.epc > 0)
    assert granted or not admitted.asks[0].provision
