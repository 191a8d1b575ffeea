# SPDX-License-Identifier: Apache-2.0
"""Policies and signing keys over the native API: who may, what changes, what a dry run says."""

import json

import pytest

from kubenclave.services.web.credentials import Role
from tests.attestation_service import UNWANTED, WANTED, attestation, base64url, bench, refusal

__all__ = ["attestation"]

POLICY = "/v1/policies/SgxEnclave"


def change(attestation, document, path=POLICY, method="PUT"):
    return attestation.call(method, path, json=document, headers=attestation.bearer(Role.POLICY_ADMIN))


def test_nothing_is_writable_by_default(attestation):
    for method, path in (
        ("PUT", POLICY),
        ("POST", f"{POLICY}/reset"),
        ("POST", f"{POLICY}/dry-run"),
        ("POST", f"{POLICY}/diff"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys/RS256/rotate"),
        ("POST", "/v1/keys/x/revoke"),
    ):
        assert refusal(attestation.call(method, path, json={}), 401) == "credentials.missing"
        answer = attestation.call(method, path, json={}, headers=attestation.bearer(Role.ATTEST))
        assert refusal(answer, 403) == "credentials.role"


def test_policy_is_set_read_and_reset(attestation):
    assert attestation.get(POLICY).json()["default"] is True
    made = change(attestation, {"text": json.dumps(WANTED), "expected_version": 0}).json()
    assert (made["version"], made["by"], made["format"]) == (1, f"test-{Role.POLICY_ADMIN}", "kubenclave")
    assert json.loads(attestation.get(POLICY).json()["text"]) == WANTED
    late = change(attestation, {"text": json.dumps(UNWANTED), "expected_version": 0})
    assert refusal(late, 409) == "policy-store.conflict"
    assert change(attestation, {}, f"{POLICY}/reset", "POST").json()["default"] is True
    versions = attestation.get(f"{POLICY}/history").json()["versions"]
    assert [each["version"] for each in versions] == [2, 1]
    assert json.loads(attestation.get(f"{POLICY}/versions/1").json()["text"]) == WANTED


def test_who_attests_and_who_sets_policies_may_read_them_and_nobody_else(tmp_path):
    with bench(tmp_path / "state", open=False) as made:
        for path in (POLICY, f"{POLICY}/history", f"{POLICY}/versions/0"):
            for role in (Role.ATTEST, Role.POLICY_ADMIN):
                assert made.get(path, headers=made.bearer(role)).status_code == 200
            assert refusal(made.get(path, headers=made.bearer(Role.KEY_ADMIN)), 403) == "credentials.role"
            assert refusal(made.get(path), 401) == "credentials.missing"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"text": "{}"}, "policy.malformed"),
        ({"text": "version= 1.0; nonsense", "format": "azure"}, None),
        ({"text": "", "format": "azure"}, "request.malformed"),
        ({"text": "{}", "format": "rego"}, "request.malformed"),
    ],
)
def test_text_that_is_no_policy_is_refused(attestation, document, code):
    assert code in {None, refusal(change(attestation, document), 400)}
    assert attestation.get(POLICY).json()["version"] == 0


def test_unknown_type_and_version(attestation):
    assert refusal(attestation.get("/v1/policies/Tpm"), 404) == "policy-store.unknown-tee"
    assert refusal(attestation.get(f"{POLICY}/versions/3"), 404) == "policy-store.unknown-version"
    for number in ("x", "-1", "9" * 5000):
        assert refusal(attestation.get(f"{POLICY}/versions/{number}"), 400) == "request.malformed"


def test_dry_run_and_difference_on_evidence_that_was_kept(tmp_path):
    with bench(tmp_path / "state", keep_evidence=8) as made:
        for data in (b"one", b"two"):
            assert made.post("/v1/attest", {"quote": base64url(made.quote(data))}).status_code == 200
        tried = change(made, {"policy": {"text": json.dumps(UNWANTED)}}, f"{POLICY}/dry-run", "POST").json()
        assert (tried["evidence"], tried["refused"], tried["codes"]) == (2, 2, {"policy.mr-enclave": 2})
        proposed = {"second": {"text": json.dumps(UNWANTED)}}
        compared = change(made, proposed, f"{POLICY}/diff", "POST").json()
        assert compared["changes"]["newly-refused"] == 2
        same = change(made, {"second": {"version": 0}}, f"{POLICY}/diff", "POST").json()
        assert same["changes"]["same"] == 2
        both = change(made, {"policy": {"text": "{}", "version": 0}}, f"{POLICY}/dry-run", "POST")
        assert refusal(both, 400) == "request.malformed"


def test_genuine_evidence_that_the_policy_refused_is_kept_too(tmp_path):
    with bench(tmp_path / "state", keep_evidence=8) as made:
        change(made, {"text": json.dumps(UNWANTED)})
        refused = made.post("/v1/attest", {"quote": base64url(made.quote(b"one"))})
        assert refusal(refused, 422) == "policy.mr-enclave"
        damaged = bytearray(made.quote(b"two"))
        damaged[100] ^= 1
        assert made.post("/v1/attest", {"quote": base64url(bytes(damaged))}).status_code == 422
        compared = change(made, {"second": {"text": json.dumps(WANTED)}}, f"{POLICY}/diff", "POST").json()
        assert (compared["evidence"], compared["changes"]["newly-accepted"]) == (1, 1)


def test_no_evidence_is_kept_by_default(attestation):
    attestation.post("/v1/attest", {"quote": base64url(attestation.quote())})
    assert change(attestation, {}, f"{POLICY}/dry-run", "POST").json()["evidence"] == 0


def test_keys_are_rotated_and_revoked(attestation):
    headers = attestation.bearer(Role.KEY_ADMIN)
    waiting = attestation.call("POST", "/v1/keys/ES256/rotate", headers=headers).json()
    assert waiting["state"] == "next"
    listed = attestation.get("/v1/keys", headers=headers).json()["keys"]
    assert sorted(each["state"] for each in listed) == ["active", "active", "next"]
    assert all("d" not in each["jwk"] for each in listed)
    active = next(each for each in listed if each["algorithm"] == "ES256" and each["state"] == "active")
    kept = attestation.call("POST", f"/v1/keys/{active['kid']}/revoke", headers=headers).json()
    assert kept["state"] == "active"
    assert active["kid"] not in attestation.get("/v1/certs").text


def test_keys_of_other_algorithms_and_unknown_keys(attestation):
    headers = attestation.bearer(Role.KEY_ADMIN)
    assert refusal(attestation.call("POST", "/v1/keys/HS256/rotate", headers=headers), 400) == "request.algorithm"
    assert refusal(attestation.call("POST", "/v1/keys/x/revoke", headers=headers), 404) == "signing-key.unknown"
