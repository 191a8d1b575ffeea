# SPDX-License-Identifier: Apache-2.0
"""Claims in Azure's dialect: every one of them, from a quote whose fields are known."""

import base64
import hashlib
import json
from dataclasses import replace

import pytest

from kubenclave.dcap.judgement import DataType, Freshness, HeldData
from kubenclave.dcap.token.azure import CLAIMS, azure_claims, collateral_hashes
from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from tests import evidence
from tests.judgements import AZURE_POLICY, NONCE, TYPED_POLICY, judgement, tdx

SIGNER = {"kty": "RSA", "n": "AQAB", "e": "AQAB"}
KSS = replace(
    evidence.BODY,
    attributes=Attributes(evidence.BODY.attributes.flags | AttributeFlags.KSS, 3),
    config_id=bytes(range(64)),
    config_svn=3451,
    isv_ext_prod_id=bytes(range(16)),
    isv_family_id=bytes(range(16, 32)),
)


@pytest.fixture(scope="module")
def good():
    return judgement()


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_what_the_report_says(good):
    claims = azure_claims(good)
    assert claims["x-ms-attestation-type"] == "sgx"
    assert claims["x-ms-ver"] == claims["ver"] == "1.0"
    assert claims["x-ms-sgx-is-debuggable"] is False
    assert claims["x-ms-sgx-mrenclave"] == evidence.MR_ENCLAVE.hex()
    assert claims["x-ms-sgx-mrsigner"] == evidence.BODY.mr_signer.hex()
    assert claims["x-ms-sgx-product-id"] == 7
    assert claims["x-ms-sgx-svn"] == 3
    assert claims["x-ms-sgx-report-data"] == evidence.REPORT_DATA.hex()


def test_no_alias_of_a_measurement_and_no_key_separation_unless_they_are_there(good):
    claims = azure_claims(good)
    assert not claims.keys() & {"is-debuggable", "sgx-mrenclave", "sgx-mrsigner", "product-id", "svn", "tee"}
    assert not claims.keys() & {"x-ms-sgx-config-id", "x-ms-sgx-config-svn", "x-ms-sgx-isv-family-id"}
    assert not claims.keys() & {"nonce", "rp_data", "x-ms-policy", "x-ms-sgx-ehd", "x-ms-runtime", "x-ms-inittime"}


def test_key_separation_and_sharing():
    claims = azure_claims(judgement(evidence.make(KSS)))
    assert claims["x-ms-sgx-config-id"] == bytes(range(64)).hex()
    assert claims["x-ms-sgx-config-svn"] == 3451
    assert claims["x-ms-sgx-isv-extended-product-id"] == bytes(range(16)).hex()
    assert claims["x-ms-sgx-isv-family-id"] == bytes(range(16, 32)).hex()


def test_a_debug_enclave_is_called_one_twice():
    claims = azure_claims(judgement(evidence.debug(), debug=True))
    assert claims["x-ms-sgx-is-debuggable"] is True
    assert claims["kubenclave"]["debug"] is True
    assert any(each.startswith("dangerously_allow_debug") for each in claims["kubenclave"]["relaxations"])


def test_hashes_of_collateral_are_of_what_pcs_answers(good):
    collateral = good.collateral
    tcb_info = b'{"tcbInfo":' + collateral.tcb_info + b',"signature":"'
    tcb_info += collateral.tcb_info_signature.hex().encode() + b'"}'
    identity = b'{"enclaveIdentity":' + collateral.qe_identity + b',"signature":"'
    identity += collateral.qe_identity_signature.hex().encode() + b'"}'
    json.loads(tcb_info), json.loads(identity)
    claims = azure_claims(good)
    assert claims["x-ms-sgx-collateral"] == claims["maa-attestationcollateral"]
    assert claims["x-ms-sgx-collateral"] == {
        "quotehash": hashlib.sha256(evidence.make().quote).hexdigest(),
        "qeidhash": hashlib.sha256(identity).hexdigest(),
        "tcbinfohash": hashlib.sha256(tcb_info).hexdigest(),
        "qeidcertshash": hashlib.sha256(collateral.qe_identity_issuer_chain).hexdigest(),
        "tcbinfocertshash": hashlib.sha256(collateral.tcb_info_issuer_chain).hexdigest(),
        "qeidcrlhash": hashlib.sha256(collateral.root_ca_crl).hexdigest(),
        "tcbinfocrlhash": hashlib.sha256(collateral.root_ca_crl).hexdigest(),
    }


def test_hashes_of_another_quote_differ_in_that_alone(good):
    one, two = (collateral_hashes(good.collateral, bytes([each]) * 32) for each in (1, 2))
    assert {name for name in one if one[name] != two[name]} == {"quotehash"}


@pytest.mark.parametrize("data", [b"", b"\0\xff", b"what the enclave holds"])
def test_binary_data_is_echoed_under_new_and_old_names(data):
    claims = azure_claims(judgement(runtime_data=HeldData(data, DataType.BINARY)))
    assert {claims[name] for name in ("x-ms-sgx-ehd", "maa-ehd", "aas-ehd")} == {base64url(data)}
    assert "x-ms-runtime" not in claims


def test_json_data_becomes_an_object():
    held = HeldData(b'{"jwk": {"kty": "EC"}}', DataType.JSON)
    claims = azure_claims(judgement(runtime_data=held, init_data=HeldData(b'{"a":1}', DataType.JSON)))
    assert claims["x-ms-runtime"] == {"jwk": {"kty": "EC"}}
    assert claims["x-ms-inittime"] == {"a": 1}
    assert "x-ms-sgx-ehd" not in claims


def test_binary_init_time_data_has_no_claim():
    claims = azure_claims(judgement(init_data=HeldData(b"x", DataType.BINARY)))
    assert "x-ms-inittime" not in claims


@pytest.mark.parametrize(
    ("text", "code"),
    [(b"[1]", "token.held-data"), (b"{", "json.malformed"), (b'{"a":1,"a":2}', "json.duplicate-key")],
)
def test_data_that_is_no_json_object_is_refused(text, code):
    with pytest.raises(FormatError) as caught:
        azure_claims(judgement(runtime_data=HeldData(text, DataType.JSON)))
    assert caught.value.code == code


def test_the_nonce_is_echoed_and_alone_is_no_freshness():
    claims = azure_claims(judgement(nonce=NONCE))
    assert claims["nonce"] == claims["rp_data"] == NONCE
    assert claims["kubenclave"]["fresh"] is False
    assert azure_claims(judgement(freshness=Freshness.CHALLENGE))["kubenclave"]["fresh"] is True


def test_an_azure_policy_is_named_by_its_hash_and_its_signer():
    claims = azure_claims(judgement(policy_reference=replace(AZURE_POLICY, signer=SIGNER)))
    digest = base64url(AZURE_POLICY.digest)
    assert {claims[name] for name in ("x-ms-policy-hash", "policy_hash", "maa-policyHash")} == {digest}
    assert claims["x-ms-policy-signer"] == claims["policy_signer"] == SIGNER
    assert "x-ms-policy-signer" not in azure_claims(judgement())


def test_another_policy_has_no_hash_by_azures_rule():
    claims = azure_claims(judgement(policy_reference=TYPED_POLICY))
    assert "x-ms-policy-hash" not in claims
    assert claims["kubenclave"]["policy"] == {
        "name": "billing",
        "format": "kubenclave",
        "version": 1,
        "digest": TYPED_POLICY.digest.hex(),
    }


def test_no_policy_is_said_to_be_none():
    claims = azure_claims(judgement(policy_reference=None))
    assert claims["kubenclave"]["appraised"] is False
    assert claims["kubenclave"]["policy"] is None
    assert "x-ms-policy-hash" not in claims


def test_what_the_policy_issued_stands_at_the_top_and_in_one_place():
    issued = {"sgx-mrenclave": "ab", "tee": "sgx", "team": ["a", "b"]}
    claims = azure_claims(judgement(issued=issued))
    assert {name: claims[name] for name in issued} == issued
    assert claims["x-ms-policy"] == issued


@pytest.mark.parametrize("name", [*sorted(CLAIMS), "sub", "aud", "cnf", "tdx_mrtd", "tdx_anything"])
def test_a_policy_cannot_speak_for_the_service(name):
    plain = azure_claims(judgement())
    claims = azure_claims(judgement(issued={name: "forged"}))
    assert claims.get(name) != "forged"
    assert claims.get(name) == plain.get(name) or name == "x-ms-policy"
    assert claims["x-ms-policy"] == {name: "forged"}


def test_tdx():
    claims = azure_claims(tdx())
    assert claims["x-ms-attestation-type"] == "tdxvm"
    assert claims["eat_profile"] == "https://aka.ms/maa-eat-profile-tdxvm"
    assert claims["attester_tcb_status"] == "UpToDate"
    assert claims["dbgstat"] == "disabled"
    assert claims["intuse"] == "generic"
    body = tdx().verdict.quote.body
    raw = body.build()
    assert claims["tdx_mrtd"] == raw[136:184].hex()
    assert claims["tdx_td_attributes"] == raw[120:128].hex()
    assert claims["tdx_xfam"] == raw[128:136].hex()
    assert claims["tdx_seamsvn"] == int.from_bytes(raw[:2], "little")
    assert claims["tdx_report_data"] == raw[520:584].hex()
    assert claims["tdx_td_attributes_debug"] is False
    assert claims["tdx_td_attributes_septve_disable"] is bool(raw[123] & 0x10)
    assert not any(name.startswith("x-ms-sgx-") for name in claims)
    assert len([name for name in claims if name.startswith("tdx_")]) == 21


def test_our_own_object_has_everything_to_audit(good):
    said = azure_claims(good)["kubenclave"]
    assert said["simulated"] is True
    assert said["tcb_status"] == "UpToDate"
    assert said["advisories"] == []
    assert said["evidence"] == good.evidence_digest.hex()
    assert said["verified_at"] == "2026-03-05T12:00:00Z"
    assert said["root"] == good.verdict.verified.anchor.digest
    assert said["collateral"]["digest"] == good.collateral.digest.hex()
    assert said["collateral"]["expired"] is False
    assert said["collateral"]["earliest_expiration"] == min(end for _, end in said["collateral"]["dates"].values())
    assert "TCB info" in said["collateral"]["dates"]
    assert said["relaxations"] == [f"root: {said['root']} instead of Intel's"]
    assert "log" not in said
    assert json.loads(json.dumps(said)) == said


def test_the_log_entry_is_named():
    class Receipt:
        index, leaf_hash, tree_size = 41, bytes(range(32)), 42

    said = azure_claims(judgement(), log=Receipt())["kubenclave"]
    assert said["log"] == {"index": 41, "leaf": bytes(range(32)).hex(), "tree_size": 42}


def test_no_claim_identifies_the_platform(good):
    extension = good.verdict.verified.chain.extension
    text = json.dumps(azure_claims(good)).lower()
    assert extension.ppid.hex() not in text
