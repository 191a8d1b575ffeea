# SPDX-License-Identifier: Apache-2.0
"""Reviews and their answers."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.admission import EnclaveWithoutEpc, Grants, Rules, Site, admit
from kubenclave.cluster.webhook.review import MAX_VALUES, Outcome, answer
from kubenclave.errors import FormatError
from tests.fake_cluster import patched

AZURE = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
SITE = Site()


def pod(limits=None, **spec):
    container = {"name": "app", "image": "i", "resources": {"limits": limits or {}, "requests": dict(limits or {})}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "p-"},
        "spec": {"containers": [container], **spec},
    }


def review(pod, **request):
    return json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": "u-1", "namespace": "team", "operation": "CREATE", "object": pod, **request},
        }
    ).encode()


def response(given):
    document = json.loads(given.body)
    assert (document["apiVersion"], document["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert document["response"]["uid"] == "u-1"
    return document["response"]


def test_a_pod_is_completed_by_a_patch():
    asked = pod({AZURE: "10"})
    given = answer(review(asked), SITE)
    told = response(given)
    assert told["allowed"] is True
    assert told["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(told["patch"]))
    assert patched(asked, patch) == admit(asked).pod
    assert told["auditAnnotations"] == {"epc": "10485760"}
    assert given.outcome is Outcome.CHANGED


def test_a_pod_that_was_treated_is_left_alone():
    told = response(answer(review(admit(pod({AZURE: "10"})).pod), SITE))
    assert told["allowed"] is True
    assert "patch" not in told


def test_a_refusal_names_every_reason():
    given = answer(review(pod({AZURE: "0", "sgx.intel.com/provision": "x"})), SITE)
    told = response(given)
    assert told["allowed"] is False
    assert told["status"]["code"] == 403
    for code in ("admission.epc-amount", "admission.amount"):
        assert f"[{code}]" in told["status"]["message"]
        assert code in told["auditAnnotations"]["refused"]
    assert set(given.codes) == {"admission.epc-amount", "admission.amount"}


@pytest.mark.parametrize(("account", "granted"), [("quotes", True), ("other", False), (None, False)])
def test_the_provisioning_key_goes_to_whom_it_was_granted(account, granted):
    asked = pod({AZURE: "1", "sgx.intel.com/provision": "1"}, **({"serviceAccountName": account} if account else {}))
    told = response(answer(review(asked), Site(grants=Grants(frozenset({("team", "quotes")})))))
    assert told["allowed"] is granted
    if granted:
        assert told["auditAnnotations"]["provision"] == "app"
    else:
        assert "admission.provision-refused" in told["status"]["message"]


def test_the_namespace_is_the_requests():
    asked = pod({AZURE: "1", "sgx.intel.com/provision": "1"})
    asked["metadata"]["namespace"] = "team"
    told = response(answer(review(asked, namespace="elsewhere"), Site(grants=Grants(frozenset({("team", "default")})))))
    assert told["allowed"] is False


def test_the_sites_rules_hold_and_notes_are_warnings():
    asked = pod({"sgx.intel.com/enclave": "1"})
    assert response(answer(review(asked), SITE))["allowed"] is False
    site = Site(Rules(enclave_without_epc=EnclaveWithoutEpc.WARN))
    told = response(answer(review(asked), site))
    assert told["allowed"] is True
    assert told["warnings"]


def test_a_dry_run_is_known_as_one():
    assert answer(review(pod(), dryRun=True), SITE).dry_run
    assert not answer(review(pod(), dryRun=False), SITE).dry_run


def test_what_has_not_the_shape_of_a_pod_is_refused():
    told = response(answer(review({"spec": {"containers": "many"}}), SITE))
    assert told["allowed"] is False
    assert told["status"]["code"] == 400
    assert "[admission.shape]" in told["status"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{}}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":1,"object":{}}}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","object":null}}',
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_what_is_no_review_gets_an_error_and_nothing_else(body):
    with pytest.raises(FormatError) as caught:
        answer(body, SITE)
    assert caught.value.code == "review.malformed"


@pytest.mark.parametrize("depth", [50, 200, 400, 900, 1500])
def test_depth_is_no_way_in(depth):
    inner = "x"
    text = json.dumps(pod({AZURE: "1"})).encode()
    text = text.replace(b'"image": "i"', b'"image": ' + b'{"a":' * depth + json.dumps(inner).encode() + b"}" * depth)
    body = review({}).replace(b'"object": {}', b'"object": ' + text)
    with contextlib.suppress(FormatError):
        response(answer(body, SITE))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    limits=st.dictionaries(st.sampled_from([AZURE, "sgx.intel.com/epc", "sgx.intel.com/enclave"]), JSON),
    spec=st.dictionaries(st.sampled_from(["volumes", "initContainers", "tolerations", "serviceAccountName"]), JSON),
    metadata=JSON,
)
def test_any_object_gets_an_answer(limits, spec, metadata):
    told = response(answer(review({**pod(limits, **spec), "metadata": metadata}), SITE))
    assert told["allowed"] or told["status"]["message"]


@pytest.mark.parametrize("value", ["[]", "{}", '{"resources":{"limits":{"sgx.intel.com/epc":"1"}}}'])
def test_small_things_in_great_numbers_are_refused_before_they_are_read(value):
    many = ",".join([value] * (MAX_VALUES + 1))
    body = review(pod()).replace(b'"containers": [', f'"containers": [{many},'.encode())
    with pytest.raises(FormatError) as caught:
        answer(body, SITE)
    assert caught.value.code == "review.size"


def test_a_large_pod_is_reviewed():
    large = pod({AZURE: "1"})
    large["spec"]["containers"][0]["env"] = [{"name": f"N{number}", "value": "a, b, c"} for number in range(9000)]
    assert answer(review(large), SITE).outcome is Outcome.CHANGED
