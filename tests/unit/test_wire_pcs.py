# SPDX-License-Identifier: Apache-2.0
"""Formats of PCS and PCCS: what Intel's client depends on, byte for byte, and what is refused."""

import json
import urllib.parse
from typing import Any

import pytest

from kubenclave.errors import FormatError
from kubenclave.platform.simulated.pki import Pki, Role, pem_chain
from kubenclave.wire import pcs
from tests.evidence import SEED

PKI = Pki.from_seed(SEED)
CHAIN = pem_chain(PKI.certificates[Role.TCB_SIGNER], PKI.certificates[Role.ROOT])
SIGNATURE = bytes(range(64))
NUMBER = {
    "tcbEvaluationDataNumber": 17,
    "tcbRecoveryEventDate": "2024-11-12T00:00:00Z",
    "tcbDate": "2024-11-13T00:00:00Z",
}


def numbers(**changes: Any) -> bytes:
    document = {
        "id": "SGX",
        "version": 1,
        "issueDate": "2026-03-01T00:00:00Z",
        "nextUpdate": "2026-03-31T00:00:00Z",
        "tcbEvalNumbers": [NUMBER, NUMBER | {"tcbEvaluationDataNumber": 18}],
    }
    return json.dumps({name: value for name, value in (document | changes).items() if value is not None}).encode()


# Chains


def test_a_chain_in_a_header_is_escaped_and_ends_in_one_newline():
    text = pcs.encode_chain(CHAIN)
    assert text.endswith("-----END%20CERTIFICATE-----%0A")
    assert not text.endswith("%0A%0A")
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%")
    assert urllib.parse.unquote(text).encode() == CHAIN
    assert pcs.decode_chain(text) == CHAIN


@pytest.mark.parametrize(
    "variant",
    [
        CHAIN.replace(b"\n", b"\r\n"),
        CHAIN.rstrip(b"\n"),
        CHAIN + b"\n\n",
        CHAIN.replace(b"-----\n-----", b"-----\n\n# root\n-----"),
    ],
)
def test_a_chain_is_written_the_same_way_however_it_came(variant: bytes):
    assert pcs.encode_chain(variant) == pcs.encode_chain(CHAIN)


def test_a_plus_sign_is_not_a_blank():
    text = urllib.parse.quote(CHAIN, safe="+/=")
    assert pcs.decode_chain(text) == CHAIN
    assert pcs.decode_chain(text.replace("%0A", "%0a")) == CHAIN


@pytest.mark.parametrize("count", [1, 3])
def test_a_header_has_exactly_two_certificates(count: int):
    blocks = pcs.split_chain(CHAIN)
    with pytest.raises(FormatError, match="signer and root"):
        pcs.encode_chain(b"".join((blocks * 2)[:count]))


@pytest.mark.parametrize("text", ["", "nothing", "%", "\u00e9", "-----BEGIN%20CERTIFICATE-----", "A" * 200_000])
def test_a_header_without_a_chain(text: str):
    with pytest.raises(FormatError) as caught:
        pcs.decode_chain(text)
    assert caught.value.code == "pcs.chain"


def test_a_chain_that_is_too_long():
    with pytest.raises(FormatError, match="bytes at most"):
        pcs.split_chain(CHAIN * 100)


# Signed documents


def test_a_signed_document_is_taken_apart_and_put_together_unchanged():
    inner = b'{"a": {"b":[1 ,2]}, "c":"}\\"signature\\":"}'
    body = pcs.join_signed(pcs.TCB_INFO, inner, SIGNATURE)
    assert body == b'{"tcbInfo":' + inner + b',"signature":"' + SIGNATURE.hex().encode() + b'"}'
    assert pcs.split_signed(body, pcs.TCB_INFO) == (inner, SIGNATURE)


def test_white_space_around_the_parts_of_a_signed_document():
    text = f' {{ "tcbInfo" : {{"a":1}} , "signature" : "{SIGNATURE.hex().upper()}" }} \n'
    assert pcs.split_signed(text.encode(), pcs.TCB_INFO) == (b'{"a":1}', SIGNATURE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"}",
        b"[]",
        b'{"tcbInfo":{}}',
        b'{"signature":"' + b"00" * 64 + b'","tcbInfo":{}}',
        b'{"tcbInfo":{},"signature":"00"}',
        b'{"tcbInfo":{},"signature":"' + b"00" * 64 + b'"}x',
        b'{"tcbInfo":{},"signature":"' + b"00" * 64 + b'","more":{}}',
        b'{"tcbInfo":{},"tcbInfo":{},"signature":"' + b"00" * 64 + b'"}',
        b'{"tcbInfo":[1],"signature":"' + b"00" * 64 + b'"}',
        b'{"enclaveIdentity":{},"signature":"' + b"00" * 64 + b'"}',
        b'{"tcbInfo":{"a":},"signature":"' + b"00" * 64 + b'"}',
        b'{"tcbInfo":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b',"signature":"' + b"00" * 64 + b'"}',
        b"x" * (pcs.MAX_BODY + 1),
    ],
)
def test_what_is_no_signed_document(body: bytes):
    with pytest.raises(FormatError) as caught:
        pcs.split_signed(body, pcs.TCB_INFO)
    assert caught.value.code == "pcs.document"


# CRLs

DER = b"\x30\x82" + bytes(range(200))


def test_a_crl_is_the_same_in_every_form():
    assert pcs.crl_hex(DER) == DER.hex().encode()
    for form in (DER, pcs.crl_hex(DER), pcs.crl_hex(DER).upper() + b"\n", pcs.crl_pem(DER)):
        assert pcs.crl_der(form) == DER
    lines = pcs.crl_pem(DER).splitlines()
    assert (lines[0], lines[-1]) == (b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----")
    assert {len(line) for line in lines[1:-2]} == {64}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"abc",
        b"<html>",
        b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----",
        b"-----BEGIN X509 CRL-----",
        b"0" * (pcs.MAX_BODY + 1),
    ],
)
def test_what_is_no_crl(body: bytes):
    with pytest.raises(FormatError) as caught:
        pcs.crl_der(body)
    assert caught.value.code == "pcs.crl"


# Parameters


def test_parameters():
    assert pcs.parse_fmspc("00906ED50000") == "00906ed50000"
    assert pcs.parse_ca("Platform") == "platform"
    assert pcs.parse_ca("PROCESSOR") == "processor"
    assert pcs.parse_update(None) == "standard"
    assert pcs.parse_update("EARLY") == "early"
    assert pcs.parse_update(None, "017") == "17"
    assert pcs.parse_hex("0D00", 2, "pcesvn") == b"\x0d\x00"


@pytest.mark.parametrize("text", ["", "00906ed5000", "00906ed500000", "00906ed5000g", "0x906ed50000", "\uff10" * 12])
def test_what_is_no_fmspc(text: str):
    with pytest.raises(FormatError) as caught:
        pcs.parse_fmspc(text)
    assert (caught.value.code, caught.value.field) == ("pcs.parameter", "fmspc")


@pytest.mark.parametrize(
    ("update", "number"), [("", None), ("late", None), ("early", "17"), (None, ""), (None, "-1"), (None, "9" * 10)]
)
def test_what_is_no_generation(update: str | None, number: str | None):
    with pytest.raises(FormatError) as caught:
        pcs.parse_update(update, number)
    assert caught.value.code == "pcs.parameter"


def test_what_is_no_ca():
    with pytest.raises(FormatError, match="processor or platform"):
        pcs.parse_ca("root")


# Lists


def test_evaluation_numbers_come_newest_first():
    found = pcs.parse_evaluation_numbers(numbers())
    assert [each.number for each in found.numbers] == [18, 17]
    assert (found.tee, found.issued.month, found.next_update.day) == ("SGX", 3, 31)
    assert found.numbers[0].recovery_event.isoformat() == "2024-11-12T00:00:00+00:00"


def test_evaluation_numbers_under_the_name_of_a_transcript():
    found = pcs.parse_evaluation_numbers(numbers(tcbEvalNumbers=None, tcbNumbers=[NUMBER]))
    assert [each.number for each in found.numbers] == [17]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "SEV"},
        {"version": 2},
        {"issueDate": "2026-03-01T00:00:00"},
        {"issueDate": "0001-01-01T00:00:00+01:00"},
        {"nextUpdate": None},
        {"tcbEvalNumbers": None},
        {"tcbEvalNumbers": []},
        {"tcbEvalNumbers": [NUMBER | {"tcbEvaluationDataNumber": -1}]},
        {"tcbEvalNumbers": [NUMBER | {"tcbDate": "9999-12-31T23:59:59-01:00"}]},
    ],
)
def test_what_is_no_list_of_evaluation_numbers(changes: dict[str, Any]):
    with pytest.raises(FormatError) as caught:
        pcs.parse_evaluation_numbers(numbers(**changes))
    assert caught.value.code == "pcs.document"


def test_fmspcs():
    (found,) = pcs.parse_fmspcs(b'[{"fmspc":"00906ED50000","platform":"E3","more":1}]')
    assert (found.fmspc, found.platform) == ("00906ED50000", "E3")
    for body in (b"{}", b'[{"fmspc":"00"}]', b"[" * 5000, b"[" + b" " * pcs.MAX_BODY + b"]"):
        with pytest.raises(FormatError):
            pcs.parse_fmspcs(body)


def test_pck_certificates():
    leaf = pcs.split_chain(CHAIN)[0]
    entries = (pcs.PckEntry(bytes(range(16)) + b"\x0d\x00", leaf), pcs.PckEntry(bytes(18), None))
    body = pcs.encode_pck_certs(entries)
    assert pcs.parse_pck_certs(body) == entries
    first, second = json.loads(body)
    assert first["tcb"]["sgxtcbcomp16svn"] == 15
    assert first["tcb"]["pcesvn"] == 13
    assert second["cert"] == "Not available"
    assert pcs.decode_leaf(leaf.decode()) == leaf


@pytest.mark.parametrize("tcbm", ["", "00" * 17, "zz" * 18])
def test_what_is_no_tcbm(tcbm: str):
    with pytest.raises(FormatError):
        pcs.parse_tcbm(tcbm)


def test_a_leaf_that_is_two():
    with pytest.raises(FormatError, match="one certificate"):
        pcs.decode_leaf(pcs.encode_chain(CHAIN))
