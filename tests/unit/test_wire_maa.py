# SPDX-License-Identifier: Apache-2.0
"""Azure's attestation API on the wire: every member right, missing, of another type, too long, wrongly encoded."""

import base64
import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError
from kubenclave.wire import maa

QUOTE = bytes(range(256)) * 3
JSON = b'{ "a" : [1, 2] }'


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def report(quote: bytes = QUOTE, *, version: int = 1, kind: int = 2, length: int | None = None) -> bytes:
    return struct.pack("<IIQ", version, kind, len(quote) if length is None else length) + quote


def refused(code: str, call: Any, *arguments: Any) -> FormatError:
    with pytest.raises(FormatError) as caught:
        call(*arguments)
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("version", maa.API_VERSIONS)
def test_api_versions_that_are_served(version: str):
    assert maa.check_api_version([version]) == version


@pytest.mark.parametrize("values", [[], [""], ["2019-01-01"], ["2020-10-01", "2020-10-01"], ["2020-10-01 "]])
def test_other_api_versions_are_refused_with_those_that_are_served(values: list[str]):
    error = refused("maa.api-version", maa.check_api_version, values)
    assert error.field == "api-version"
    assert "2020-10-01" in (error.expected or "")


def test_types_that_are_judged_and_those_that_are_not():
    assert [maa.check_type(each) for each in maa.EVIDENCE_FIELDS] == ["SgxEnclave", "OpenEnclave", "TdxVm"]
    for other in maa.OTHER_TYPES:
        assert "not judged" in str(refused("maa.unsupported-type", maa.check_type, other))
    refused("maa.type", maa.check_type, "sgxenclave")


@pytest.mark.parametrize("name", ["SgxEnclave", "TdxVm"])
def test_a_request_with_everything(name: str):
    request = maa.parse_attest(
        {
            "quote": b64(QUOTE),
            "runtimeData": {"data": b64(b"run"), "dataType": "Binary"},
            "initTimeData": {"data": b64(JSON), "dataType": "JSON"},
            "draftPolicyForAttestation": "version= 1.0;",
            "nonce": "n",
            "another": 1,
        },
        name,
    )
    assert request == maa.AttestRequest(
        quote=QUOTE,
        runtime_data=maa.SuppliedData(b"run", is_json=False),
        init_time_data=maa.SuppliedData(JSON, is_json=True),
        draft_policy="version= 1.0;",
        nonce="n",
    )


def test_what_is_optional_may_be_absent_null_or_empty():
    bare = maa.AttestRequest(quote=QUOTE)
    nulls = dict.fromkeys(("runtimeData", "initTimeData", "draftPolicyForAttestation", "nonce"))
    # Intel's own sample client sends these
    empties = {"draftPolicyForAttestation": "", "initTimeData": {"data": "", "dataType": ""}}
    for more in ({}, nulls, empties, {"runtimeData": {"data": ""}}):
        assert maa.parse_attest({"quote": b64(QUOTE), **more}, "SgxEnclave") == bare


def test_an_open_enclave_report_is_unwrapped():
    assert maa.parse_attest({"report": b64(report())}, "OpenEnclave").quote == QUOTE


@pytest.mark.parametrize(
    "data", [report()[:15], report(version=2), report(kind=1), report(length=7), report() + b"\0", b"\3\0\2\0" * 9]
)
def test_what_is_no_remote_report(data: bytes):
    assert refused("maa.report", maa.open_enclave_quote, data).hint


@pytest.mark.parametrize(
    ("document", "code", "field"),
    [
        ([], "maa.object", None),
        ("quote", "maa.object", None),
        (None, "maa.object", None),
        (1, "maa.object", None),
        ({}, "maa.member", "quote"),
        ({"quote": None}, "maa.member", "quote"),
        ({"quote": 5}, "maa.member", "quote"),
        ({"quote": ""}, "maa.member", "quote"),
        ({"quote": "a b"}, "maa.base64", "quote"),
        ({"quote": "aaaaa"}, "maa.base64", "quote"),
        ({"quote": "é"}, "maa.base64", "quote"),
        ({"quote": "A" * 90_000}, "maa.size", "quote"),
        ({"quote": b64(bytes(65_537))}, "maa.size", "quote"),
        ({"runtimeData": "x"}, "maa.object", None),
        ({"runtimeData": {}}, "maa.member", "runtimeData.data"),
        ({"runtimeData": {"dataType": "JSON"}}, "maa.member", "runtimeData.data"),
        ({"runtimeData": {"data": "", "dataType": 5}}, "maa.data-type", "runtimeData.dataType"),
        ({"runtimeData": {"data": "AA"}}, "maa.data-type", "runtimeData.dataType"),
        ({"runtimeData": {"data": "AA", "dataType": "Text"}}, "maa.data-type", "runtimeData.dataType"),
        ({"runtimeData": {"data": "%", "dataType": "Binary"}}, "maa.base64", "runtimeData.data"),
        ({"initTimeData": {"data": {}, "dataType": "Binary"}}, "maa.member", "initTimeData.data"),
        ({"draftPolicyForAttestation": []}, "maa.member", "draftPolicyForAttestation"),
        ({"nonce": 7}, "maa.member", "nonce"),
        ({"nonce": "half a pair: \ud83d"}, "maa.text", "nonce"),
        ({"nonce": "n" * 257}, "maa.size", "nonce"),
    ],
)
def test_wrong_requests_say_which_member(document: Any, code: str, field: str | None):
    if isinstance(document, dict) and "quote" not in document and document:
        document = {"quote": b64(QUOTE), **document}
    assert refused(code, maa.parse_attest, document, "SgxEnclave").field == field


def test_errors_do_not_repeat_evidence():
    text = "Q" * 50 + "!"
    assert "QQQ" not in str(refused("maa.base64", maa.decode_base64, text, "quote", 1000))


@given(st.binary(max_size=80), st.booleans(), st.booleans())
def test_base64_of_both_alphabets_padded_or_not(data: bytes, url: bool, padded: bool):
    text = (base64.urlsafe_b64encode if url else base64.b64encode)(data).decode()
    assert maa.decode_base64(text if padded else text.rstrip("="), "x", 80) == data
    assert maa.encode_base64(data) == b64(data)


def test_a_token_is_taken_apart():
    text = f"{b64(b'{}')}.{b64(b'body')}.{b64(b'sig')}"
    token = maa.split_token(f"  {text}\n")
    assert (token.header, token.payload, token.signature, token.text) == (b"{}", b"body", b"sig", text)
    assert token.signed == text.rpartition(".")[0].encode()


def test_an_unsecured_token_reads_back():
    token = maa.split_token(maa.unsecured_token({"x": "y"}))
    assert (json.loads(token.header), json.loads(token.payload), token.signature) == ({"alg": "none"}, {"x": "y"}, b"")


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c.d", "A" * 300_000])
def test_what_is_no_token(text: str):
    refused("maa.token", maa.split_token, text)


def test_a_token_in_another_encoding():
    assert refused("maa.base64", maa.split_token, "é.b.c").field == "header"


def test_a_policy_goes_there_and_back():
    text = 'version= 1.0; authorizationrules { => permit(); }; // "ü"'
    assert maa.policy_text(maa.policy_claims(text), 1000) == text


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        (None, "maa.object"),
        ({}, "maa.member"),
        ({"AttestationPolicy": 1}, "maa.member"),
        ({"AttestationPolicy": b64(b"\xff\xfe")}, "maa.text"),
        ({"AttestationPolicy": b64(bytes(11))}, "maa.size"),
    ],
)
def test_claims_that_hold_no_policy(claims: Any, code: str):
    refused(code, maa.policy_text, claims, 10)


def test_tokens_about_certificates_come_bare_or_wrapped():
    assert maa.certificate_token("a.b.c") == "a.b.c"
    for name in ("policyCertificateToAdd", "policyCertificateToRemove"):
        assert maa.certificate_token({name: "a.b.c"}) == "a.b.c"
    refused("maa.member", maa.certificate_token, {})
    refused("maa.member", maa.certificate_token, {"policyCertificateToAdd": 1})
    refused("maa.object", maa.certificate_token, 5)


@pytest.mark.parametrize("name", ["policyCertificate", "maa-policyCertificate", "x-ms-policyCertificate"])
def test_the_certificate_of_a_signer_has_three_names(name: str):
    jwk = {"kty": "RSA", "x5c": [base64.b64encode(b"\xff\xfe\xfd der").decode(), "more"]}
    assert maa.signer_certificate({name: jwk}) == b"\xff\xfe\xfd der"


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"policyCertificate": {}, "maa-policyCertificate": {}},
        {"policyCertificate": {}},
        {"policyCertificate": {"x5c": []}},
        {"policyCertificate": {"x5c": [1]}},
        {"policyCertificate": {"x5c": "AA"}},
    ],
)
def test_claims_that_hold_no_certificate(claims: Any):
    refused("maa.member", maa.signer_certificate, claims)


def test_errors_have_azures_shape():
    inner = {"code": "maa.member", "message": "a member is missing"}
    assert maa.error_document("InvalidParameter", "text", inner=inner, target="quote") == {
        "error": {"code": "InvalidParameter", "message": "text", "innererror": inner, "target": "quote"}
    }
    assert "target" not in maa.error_document("InvalidParameter", "text", inner=inner)["error"]


def test_discovery_names_the_keys_of_the_issuer():
    document = maa.openid_configuration("https://host/simulated", ["iss"])
    assert document["issuer"] == "https://host/simulated"
    assert document["jwks_uri"] == "https://host/simulated/certs"
    assert document["id_token_signing_alg_values_supported"] == ["RS256"]
    assert document["claims_supported"] == ["iss"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["quote", "report", "runtimeData", "data", "dataType", "nonce", "x5c", "policyCertificate"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_read_or_refused(document: Any):
    for read in (
        lambda: maa.parse_attest(document, "SgxEnclave"),
        lambda: maa.parse_attest(document, "OpenEnclave"),
        lambda: maa.policy_text(document, 100),
        lambda: maa.certificate_token(document),
        lambda: maa.signer_certificate(document),
    ):
        with contextlib.suppress(FormatError):
            read()
