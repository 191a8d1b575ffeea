# SPDX-License-Identifier: Apache-2.0
"""Admission: a table of pods and what becomes of them, then what no single row shows."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.admission import (
    ContainerKind,
    EnclaveWithoutEpc,
    Rules,
    admit,
    shape,
)
from kubenclave.cluster.admission.table import DIALECTS, QUOTE_PROVIDER, covers
from kubenclave.errors import FormatError, PolicyError
from kubenclave.sgx.epc import EpcMode, Quantity
from tests.admission_cases import AESM_VOLUME, AZURE, CASES, ENCLAVE, EPC, PROVISION, defaulted, essence, random_pod


def pod(limits=None, requests=None, *, provider=None, name="app", **more) -> dict[str, Any]:
    resources = {key: value for key, value in (("limits", limits), ("requests", requests)) if value is not None}
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", **({"annotations": {QUOTE_PROVIDER: provider}} if provider else {})},
        "spec": {"containers": [{"name": name, "image": "i", "resources": resources, **more}]},
    }
    return made


ADMITTED = {name: case for name, case in CASES.items() if not case.codes}
REFUSED = {name: case for name, case in CASES.items() if case.codes}


@pytest.mark.parametrize("given", [lambda made: made, defaulted], ids=["as written", "as the API server asks"])
@pytest.mark.parametrize("case", ADMITTED.values(), ids=ADMITTED)
def test_pods_come_out_as_the_table_says(case, given):
    made = given(case.pod)
    untouched = copy.deepcopy(made)
    admitted = admit(made, provision_granted=case.granted, rules=case.rules)
    assert made == untouched
    after = essence(admitted.pod)
    for name, wanted in case.limits.items():
        amounts = {resource: Quantity.parse(amount).nanos for resource, amount in wanted.items()}
        assert after["containers"][name]["limits"] == amounts
        if given is defaulted:
            requests = after["containers"][name]["requests"]
            assert {resource: amount for resource, amount in requests.items() if resource != "cpu"} == {
                resource: amount for resource, amount in amounts.items() if resource != "cpu"
            }
    for name, value in case.aesm.items():
        assert dict(after["containers"][name]["env"]).get("SGX_AESM_ADDR") == value
    if case.total is not None:
        assert after["annotations"][EPC] == case.total
    if case.limits:
        assert after["volumes"] == list(case.volumes)
        assert after["selector"] == case.selects
        assert all(any(covers(one, key) for one in admitted.pod["spec"]["tolerations"]) for key in (EPC, AZURE))
    else:
        assert admitted.pod == made
    assert len([note for note in admitted.notes if any(part in note for part in case.notes)]) == len(case.notes)
    assert {ask.name for ask in admitted.asks if ask.sgx} == set(case.limits)


@pytest.mark.parametrize("case", ADMITTED.values(), ids=ADMITTED)
def test_applying_the_rules_again_changes_nothing(case):
    once = admit(case.pod, provision_granted=case.granted, rules=case.rules)
    again = admit(once.pod, provision_granted=case.granted, rules=case.rules)
    assert (again.pod, again.asks) == (once.pod, once.asks)


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_pods_that_cannot_be_meant_are_refused_with_every_reason(case):
    with pytest.raises(PolicyError) as caught:
        admit(case.pod, provision_granted=case.granted, rules=case.rules)
    assert tuple(finding.code for finding in caught.value.findings) == case.codes
    assert all(finding.hint for finding in caught.value.findings if finding.code != "admission.amount")


@pytest.mark.parametrize("limits", [{EPC: "much"}, {EPC: 1.5}, {EPC: None}], ids=["words", "float", "null"])
def test_what_no_api_server_lets_through_is_refused_as_well(limits):
    with pytest.raises(PolicyError) as caught:
        admit(pod(limits))
    assert caught.value.code == "admission.amount"


def test_a_total_that_is_too_small_is_corrected_and_remarked_on():
    assert not admit(CASES["a total of its own"].pod).notes
    (note,) = admit(CASES["a total that is too small"].pod).notes
    assert "7 became 1048576" in note


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


rules = st.builds(Rules, st.sampled_from(EpcMode), st.sampled_from(EnclaveWithoutEpc))


@given(
    limits=amounts,
    requests=amounts,
    granted=st.booleans(),
    provider=st.sampled_from([None, "aesmd", "app"]),
    rules=rules,
)
def test_whatever_is_asked_for_is_admitted_for_good_or_refused(limits, requests, granted, provider, rules):
    try:
        admitted = admit(pod(limits, requests, provider=provider), provision_granted=granted, rules=rules)
    except PolicyError:
        return
    assert admit(admitted.pod, provision_granted=granted, rules=rules) == admitted
    after = admitted.pod["spec"]["containers"][0]["resources"]["limits"]
    assert (rules.canonical in after) == (admitted.epc > 0)
    assert {dialect.resource for dialect in DIALECTS}.intersection(after) <= {rules.canonical}
    assert ENCLAVE in after or not admitted.epc
    assert granted or not admitted.asks[0].provision


@given(random=st.randoms(use_true_random=False), rules=rules)
def test_whatever_pod_is_admitted_once_is_admitted_for_good(random, rules):
    made = defaulted(random_pod(random))
    try:
        admitted = admit(made, provision_granted=True, rules=rules)
    except PolicyError:
        return
    again = admit(admitted.pod, provision_granted=True, rules=rules)
    assert (again.pod, again.asks) == (admitted.pod, admitted.asks)
    taking = [ask for ask in admitted.asks if ask.sgx]
    assert all(ask.enclave for ask in taking if ask.epc)
    assert not taking or any(covers(one, EPC) for one in admitted.pod["spec"]["tolerations"])


def test_volumes_are_looked_through_once_however_many_containers_there_are(monkeypatch):
    seen = []
    real = shape.aesm_volumes

    def counted(spec):
        seen.append(spec)
        return real(spec)

    monkeypatch.setattr(shape, "aesm_volumes", counted)
    made = pod({EPC: "1Mi"})
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": AESM_VOLUME["name"], "mountPath": "/var/run/aesmd"}]
    made["spec"] |= {"containers": made["spec"]["containers"] * 50, "volumes": [AESM_VOLUME]}
    assert len(admit(made).asks) == 50
    assert len(seen) == 2  # for the containers, and for the pod
