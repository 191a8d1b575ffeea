# SPDX-License-Identifier: Apache-2.0
"""The native API through the whole application, with evidence of a SIMULATED platform."""

import datetime as dt
import json
import re
from typing import Any

import jwt
import pytest
from structlog.testing import capture_logs

from kubenclave.dcap.binding import runtime_data
from kubenclave.services.attestation.transparency.checkpoint import InclusionReceipt
from kubenclave.services.web.credentials import Role
from tests import ratls
from tests.attestation_service import ISSUER, UNWANTED, WANTED, attestation, base64url, bench, claims, refusal

__all__ = ["attestation"]

NO_TIMES: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}  # tests have a clock of their own


def evidence(attestation, data=b"", **more):
    held = {"runtime_data": {"data": base64url(data)}} if data else {}
    return {"quote": base64url(attestation.quote(data)), **held, **more}


@pytest.mark.parametrize(
    ("dialect", "keys", "algorithm"),
    [("ear", "/v1/certs", "ES256"), ("ear-veraison", "/v1/certs", "ES256"), ("azure", "/certs", "RS256")],
)
def test_a_usual_library_verifies_the_token(attestation, dialect, keys, algorithm):
    answer = attestation.post("/v1/attest", evidence(attestation, token=dialect))
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    token = answer.json()["token"]
    key = jwt.PyJWKSet.from_dict(attestation.get(keys).json())[jwt.get_unverified_header(token)["kid"]]
    said = jwt.decode(token, key, [algorithm], issuer=ISSUER, options=NO_TIMES)["kubenclave"]
    assert (said["simulated"], said["fresh"], said["debug"]) == (True, False, False)


def test_answer_says_what_was_found_and_where_it_is_logged(attestation):
    found = attestation.post("/v1/attest", evidence(attestation, token="none")).json()
    assert "token" not in found
    assert found["verdict"]["accepted"]
    assert found["verdict"]["simulated"]
    assert found["policy"] is None
    assert not found["verdict"]["appraised"]
    receipt = found["receipt"]
    proof = InclusionReceipt.parse(receipt["proof"])
    checkpoint = proof.check(receipt["entry"].encode(), attestation.service.log.key)
    assert (checkpoint.size, receipt["index"]) == (1, 0)
    entry = json.loads(receipt["entry"])
    assert entry["evidence"] == found["verdict"]["quote"].get("digest", entry["evidence"])
    assert found["verdict"]["platform_identity"]["ppid"] not in receipt["entry"]


def test_token_names_its_log_entry(attestation):
    found = attestation.post("/v1/attest", evidence(attestation)).json()
    said = claims(found["token"])
    assert said["jti"] == json.loads(found["receipt"]["entry"])["jti"]
    assert said["kubenclave"]["log"]["leaf"] == found["receipt"]["leaf_hash"]


def test_garbage_and_forgeries_are_refused_and_leave_no_trace(attestation):
    quote = bytearray(attestation.quote())
    assert refusal(attestation.post("/v1/attest", {"quote": "AAAA"}), 400).startswith("format.")
    quote[48 + 64] ^= 1  # MRENCLAVE
    assert refusal(attestation.post("/v1/attest", {"quote": base64url(bytes(quote))})) == "quote.signature"
    assert attestation.service.log.size() == 0


def test_refusal_by_policy_has_all_findings_and_is_in_the_log(attestation):
    attestation.service.policies.put("SgxEnclave", json.dumps(UNWANTED), "kubenclave", by="test")
    answer = attestation.post("/v1/attest", evidence(attestation))
    assert refusal(answer) == "policy.mr-enclave"
    assert answer.json()["findings"][0]["expected"] == "00" * 32
    (entry,) = map(json.loads, attestation.service.log.entries(0, 1))
    assert (entry["verdict"], entry["codes"], entry["policy"]["name"]) == ("refused", ["policy.mr-enclave"], "theirs")


def test_typed_policy_appraises(attestation):
    attestation.service.policies.put("SgxEnclave", json.dumps(WANTED), "kubenclave", by="test")
    found = attestation.post("/v1/attest", evidence(attestation, policy_version=1)).json()
    assert (found["verdict"]["appraised"], found["verdict"]["policy"]) == (True, "ours")
    assert claims(found["token"])["kubenclave"]["policy"]["version"] == 1
    other = attestation.post("/v1/attest", evidence(attestation, policy_version=2))
    assert refusal(other, 409) == "request.policy-version"


def test_azure_policy_appraises_and_issues(attestation):
    text = (
        'version= 1.0; authorizationrules { [type=="x-ms-sgx-is-debuggable", value==false] => permit(); };'
        ' issuancerules { => issue(type="colour", value="green"); };'
    )
    attestation.service.policies.put("SgxEnclave", text, "azure", by="test")
    found = attestation.post("/v1/attest", evidence(attestation)).json()
    assert found["issued"] == {"colour": "green"}
    assert found["policy"]["format"] == "azure"
    assert found["verdict"]["appraised"]
    denying = "version= 1.0; authorizationrules { => deny(); }; issuancerules {};"
    attestation.service.policies.put("SgxEnclave", denying, "azure", by="test")
    assert refusal(attestation.post("/v1/attest", evidence(attestation))) == "azure-policy.denied"


def test_default_policy_wants_nothing_and_tokens_say_so(attestation):
    for dialect in ("ear", "azure"):
        found = attestation.post("/v1/attest", evidence(attestation, token=dialect)).json()
        assert found["verdict"]["appraised"] is False
        assert claims(found["token"])["kubenclave"]["appraised"] is False


def test_debug_is_refused_unless_the_operator_allows_it(attestation, tmp_path):
    quote = base64url(attestation.quote(debug=True))
    assert refusal(attestation.post("/v1/attest", {"quote": quote})) == "policy.debug"
    with bench(tmp_path / "lax", dangerously_allow_debug=True) as lax:
        found = lax.post("/v1/attest", {"quote": quote}).json()
    assert any(each.startswith("dangerously_allow_debug") for each in found["relaxations"])
    assert claims(found["token"])["kubenclave"]["debug"] is True


def test_expired_collateral_is_refused_unless_the_operator_grants_grace(attestation, tmp_path):
    attestation.clock.advance(days=60)
    assert refusal(attestation.post("/v1/attest", evidence(attestation))) == "collateral.expired"
    with bench(tmp_path / "lax", dangerously_accept_expired_collateral=dt.timedelta(days=90)) as lax:
        lax.clock.advance(days=60)
        found = lax.post("/v1/attest", evidence(lax)).json()
    assert found["verdict"]["collateral_expired"]
    assert any(each.startswith("dangerously_accept_expired_collateral") for each in found["relaxations"])


def test_runtime_data_has_to_be_what_the_enclave_hashed(attestation):
    data = b'{"key": "value"}'
    answer = attestation.post("/v1/attest", evidence(attestation, data))
    assert answer.status_code == 200, answer.text
    wrong = evidence(attestation, data) | {"runtime_data": {"data": base64url(b'{"key":"value"}')}}
    answer = attestation.post("/v1/attest", wrong)
    assert refusal(answer) == "evidence.runtime-data"
    assert "never written anew" in answer.json()["hint"]


def test_runtime_data_that_is_said_to_be_json_has_to_be(attestation):
    asked = evidence(attestation, b"[1]")
    asked["runtime_data"]["type"] = "JSON"
    assert refusal(attestation.post("/v1/attest", asked), 400) == "evidence.not-json"


def test_runtime_data_that_no_token_can_hold_is_refused_before_it_is_logged(attestation):
    asked = evidence(attestation, b'{"a": "\\ud800"}')
    asked["runtime_data"]["type"] = "JSON"
    for dialect in ("azure", "ear"):
        assert refusal(attestation.post("/v1/attest", {**asked, "token": dialect}), 400) == "json.malformed"
    assert attestation.service.log.size() == 0


def test_init_data_has_to_be_in_config_id(attestation):
    answer = attestation.post("/v1/attest", evidence(attestation, init_data={"data": base64url(b"configuration")}))
    assert refusal(answer) == "evidence.init-data"


def test_challenge_in_bound_data_is_freshness_and_counts_once(attestation):
    nonce = attestation.post("/v1/challenge", None).json()["nonce"]
    asked = evidence(attestation, runtime_data(nonce), challenge=nonce)
    found = attestation.post("/v1/attest", asked).json()
    assert found["fresh"] is True
    assert claims(found["token"])["kubenclave"]["fresh"] is True
    assert refusal(attestation.post("/v1/attest", asked)) == "challenge.used"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (runtime_data("another"), "evidence.challenge-not-bound"),
        (b"{}", "evidence.challenge-not-bound"),
        (b"[]", "evidence.challenge-not-bound"),
        (b"a key, in binary", "evidence.challenge-not-bound"),
        (b"", "evidence.challenge-not-bound"),
    ],
)
def test_challenge_that_is_not_bound_proves_nothing_and_is_not_used_up(attestation, data, code):
    nonce = attestation.post("/v1/challenge", None).json()["nonce"]
    assert refusal(attestation.post("/v1/attest", evidence(attestation, data, challenge=nonce))) == code
    asked = evidence(attestation, runtime_data(nonce), challenge=nonce)
    assert attestation.post("/v1/attest", asked).json()["fresh"] is True


def test_challenges_end_and_are_ours(attestation):
    nonce = attestation.post("/v1/challenge", None).json()["nonce"]
    asked = evidence(attestation, runtime_data(nonce), challenge=nonce)
    attestation.clock.advance(minutes=6)
    assert refusal(attestation.post("/v1/attest", asked)) == "challenge.expired"
    asked["challenge"] = "x" * 86
    assert refusal(attestation.post("/v1/attest", asked)) == "challenge.unknown"


def test_nonce_of_the_client_is_told_and_proves_nothing(attestation):
    found = attestation.post("/v1/attest", evidence(attestation, nonce="12345678", token="azure")).json()
    assert (found["fresh"], claims(found["token"])["nonce"]) == (False, "12345678")


@pytest.mark.parametrize("encoded", [ratls.pem, ratls.der])
@pytest.mark.parametrize("form", [ratls.legacy, ratls.dice])
def test_ra_tls_certificate_is_evidence_for_its_key(attestation, form, encoded):
    made = form(attestation.platform.quote)
    text = encoded(made).decode() if encoded is ratls.pem else base64url(encoded(made))
    found = attestation.post("/v1/attest", {"ra_tls_certificate": text, "token": "azure"}).json()
    assert found["fresh"] is False
    assert claims(found["token"])["x-ms-sgx-ehd"]


def test_challenge_in_claims_of_a_certificate_is_freshness(attestation):
    nonce = attestation.post("/v1/challenge", None).json()["nonce"]
    made = ratls.dice(attestation.platform.quote, nonce=nonce.encode())
    asked = {"ra_tls_certificate": ratls.pem(made).decode(), "challenge": nonce}
    assert attestation.post("/v1/attest", asked).json()["fresh"] is True


def test_certificate_around_a_quote_for_another_key_is_refused(attestation):
    for form in (ratls.legacy, ratls.dice):
        made = form(lambda _data: attestation.platform.quote(bytes(64)))
        answer = attestation.post("/v1/attest", {"ra_tls_certificate": ratls.pem(made).decode()})
        assert refusal(answer) == "ra-tls.binding"


def test_certificate_that_has_ended_is_refused(attestation):
    made = ratls.legacy(attestation.platform.quote, end=ratls.START.replace(year=2021))
    answer = attestation.post("/v1/attest", {"ra_tls_certificate": ratls.pem(made).decode()})
    assert refusal(answer) == "ra-tls.dates"


def test_report_of_open_enclave_is_a_header_and_a_quote(attestation):
    quote = attestation.quote()
    report = (1).to_bytes(4, "little") + (2).to_bytes(4, "little") + len(quote).to_bytes(8, "little") + quote
    assert attestation.post("/v1/attest", {"open_enclave_report": base64url(report)}).status_code == 200


def test_batch_answers_each_by_itself_in_order(attestation):
    good, bad = evidence(attestation), {"quote": "AAAA"}
    answer = attestation.post("/v1/attest/batch", {"items": [good, bad, 7, {**good, "token": "none"}]})
    first, second, third, fourth = answer.json()["items"]
    assert first["token"]
    assert second["problem"]["status"] == 400
    assert third["problem"]["code"] == "request.malformed"
    assert (fourth["verdict"]["accepted"], "token" in fourth) == (True, False)
    assert attestation.service.log.size() == 2


def test_batch_is_bounded(attestation):
    assert refusal(attestation.post("/v1/attest/batch", {"items": [{}] * 17}), 400) == "request.batch"
    assert refusal(attestation.post("/v1/attest/batch", {"items": []}), 400) == "request.malformed"


def test_verify_gives_no_token_and_no_entry(attestation):
    attestation.service.policies.put("SgxEnclave", json.dumps(WANTED), "kubenclave", by="test")
    attestation.service.policies.put("SgxEnclave", json.dumps(UNWANTED), "kubenclave", by="test")
    asked = evidence(attestation)
    assert refusal(attestation.post("/v1/verify", asked)) == "policy.mr-enclave"
    found = attestation.post("/v1/verify", {**asked, "policy_version": 1}).json()
    assert (found["policy"]["name"], found["verdict"]["appraised"]) == ("ours", True)
    assert attestation.post("/v1/verify", {**asked, "policy_version": 0}).json()["policy"] is None
    assert (
        refusal(attestation.post("/v1/verify", {**asked, "policy_version": 9}), 404) == "policy-store.unknown-version"
    )
    assert attestation.service.log.size() == 0


def test_closed_service_takes_a_credential_with_the_role(tmp_path):
    with bench(tmp_path / "state", open=False) as closed:
        asked = evidence(closed)
        for path in ("/v1/attest", "/v1/verify", "/v1/challenge", "/v1/attest/batch"):
            answer = closed.post(path, asked)
            assert refusal(answer, 401) == "credentials.missing"
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        wrong = closed.post("/v1/attest", asked, headers=closed.bearer(Role.KEY_ADMIN))
        assert refusal(wrong, 403) == "credentials.role"
        assert closed.post("/v1/attest", asked, headers=closed.bearer(Role.ATTEST)).status_code == 200
        assert closed.get("/v1/certs").status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "json.malformed"),
        (b"{", "json.malformed"),
        (b"[]", "request.malformed"),
        (b'{"quote": "AAAA", "quote": "BBBB"}', "json.duplicate-key"),
        (b'{"quote": ' + b"[" * 40 + b"]" * 40 + b"}", "json.depth"),
        (b'{"quote": "AAAA", "jku": "https://elsewhere.example/certs"}', "request.malformed"),
        (b'{"quote": 7}', "request.malformed"),
        (b'{"quote": "A A"}', "request.malformed"),
        (b'{"quote": "AAAAA"}', "request.base64"),
        (b'{"quote": ""}', "request.malformed"),
        (b"{}", "request.malformed"),
        (b'{"quote": "AAAA", "open_enclave_report": "AAAA"}', "request.malformed"),
        (b'{"quote": "AAAA", "token": "none-such"}', "request.malformed"),
        (b'{"quote": "AAAA", "nonce": "short"}', "request.malformed"),
        (b'{"quote": "AAAA", "nonce": "\\ud800-------"}', "json.malformed"),
        (b'{"quote": "AAAA", "pck_chain": "\xc3\xbc"}', "request.malformed"),
        (b'{"quote": "' + b"A" * 90000 + b'"}', "request.malformed"),
        (b" " * (256 * 1024 + 1), "request.size"),
        (b"\xff", "json.malformed"),
        (b'{"ra_tls_certificate": "AAAA"}', "ra-tls.malformed"),
        (b'{"open_enclave_report": "AAAA"}', None),
    ],
)
def test_bad_requests_are_told_what_is_wrong(attestation, body, code):
    answer = attestation.call("POST", "/v1/attest", content=body)
    found = refusal(answer, 413 if code == "request.size" else 400)
    assert code in {None, found}
    assert attestation.service.log.size() == 0


def test_unknown_routes_and_methods_are_problems_too(attestation):
    for path in ("/v1/nothing", "/v1/attest/", "//v1/attest"):  # none is redirected to where a Host header says
        assert refusal(attestation.get(path), 404) == "request.no-route"
    answer = attestation.get("/v1/attest")
    assert refusal(answer, 405) == "request.method"
    assert answer.headers["Allow"] == "POST"


def test_fault_of_ours_is_told_without_what_it_was(attestation, monkeypatch):
    async def fail(*_arguments, **_options):
        raise RuntimeError("a secret")

    monkeypatch.setattr(attestation.service.judge.provider.__class__, "collateral", fail)
    with capture_logs() as logs:
        answer = attestation.post("/v1/attest", evidence(attestation))
    assert refusal(answer, 500) == "request.failed"
    assert "secret" not in answer.text
    (line,) = [one for one in logs if one["event"] == "request.failed"]
    assert line["error"] == "RuntimeError"
    assert re.fullmatch(r"kubenclave\.services\.attestation\.judge:\d+", line["where"])
    assert "secret" not in str(logs)
