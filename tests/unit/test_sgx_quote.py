# SPDX-License-Identifier: Apache-2.0
"""Quotes of every version: own ones put together by hand, real ones field by field, and bytes that are none."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.certification import CertificationType
from kubenclave.sgx.quote import AttestationKeyType, BodyType, Quote, QuoteHeader, TeeType, signed_part
from kubenclave.sgx.report import ReportBody
from kubenclave.sgx.tdreport import TdReport10, TdReport15, TdReport15Ex
from tests.samples import QUOTES, SGX_BODY, TD_10, body_of, header, pattern, quote, sgx_body, signature_section

KINDS = {1: ReportBody, 2: TdReport10, 3: TdReport15, 4: TdReport15Ex}


@pytest.mark.parametrize("name", QUOTES)
def test_every_kind_of_quote_is_read(name: str) -> None:
    version, body_type = QUOTES[name]
    data = quote(version, body_type)
    parsed = Quote.parse(data)
    assert (parsed.header.version, parsed.body_type) == (version, body_type)
    assert parsed.header.tee_type is (TeeType.SGX if body_type == SGX_BODY else TeeType.TDX)
    assert (parsed.header.qe_svn, parsed.header.pce_svn) == (9, 13)
    assert parsed.header.user_data == pattern("user data", 20)
    assert type(parsed.body) is KINDS[body_type]
    assert parsed.body.build() == body_of(body_type)
    assert parsed.signature.signature == pattern("signature", 64)
    assert parsed.signature.attestation_key == pattern("attestation key", 64)
    assert parsed.signature.qe_report == sgx_body("qe report")
    assert parsed.signature.qe_report_signature == pattern("qe signature", 64)
    assert parsed.signature.qe_auth_data == bytes(range(32))
    assert parsed.signature.certification_data.pck_chain == b"-----BEGIN CERTIFICATE-----\n"
    assert parsed.build() == data


@pytest.mark.parametrize("name", QUOTES)
def test_what_is_signed_is_everything_before_the_length_word(name: str) -> None:
    version, body_type = QUOTES[name]
    data = quote(version, body_type)
    parsed = Quote.parse(data)
    at = 48 + (6 if version == 5 else 0) + len(body_of(body_type))
    assert parsed.signed == data[:at]
    assert signed_part(parsed.header, parsed.body_type, parsed.body) == data[:at]


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 7])
def test_every_certification_data_type_is_read(version: int, kind: int) -> None:
    data = quote(version, section=signature_section(version, kind, bytes(36)))
    assert Quote.parse(data).signature.certification_data.kind is CertificationType(kind)


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("size", [0, 1, 65535])
def test_authentication_data_may_have_any_size(version: int, size: int) -> None:
    data = quote(version, section=signature_section(version, auth=bytes(size)))
    parsed = Quote.parse(data)
    assert len(parsed.signature.qe_auth_data) == size
    assert parsed.build() == data


def test_the_smallest_quote_has_1020_bytes() -> None:
    data = quote(3, section=signature_section(3, certification=b"", auth=b""))
    assert len(data) == 1020
    assert Quote.parse(data).build() == data


@pytest.mark.parametrize("name", QUOTES)
def test_bytes_behind_the_section_are_not_looked_at(name: str) -> None:
    version, body_type = QUOTES[name]
    data = quote(version, body_type)
    assert Quote.parse(data + bytes(100)).build() == data


@pytest.mark.parametrize("version", [3, 4, 5])
def test_bytes_at_the_end_of_the_section_are_kept(version: int) -> None:
    """Intel's library and dcap-qvl let them pass, so a quote with them is a quote."""
    data = quote(version, section=signature_section(version, rest=b"rest"))
    parsed = Quote.parse(data)
    assert parsed.signature.rest == b"rest"
    assert parsed.build() == data


@pytest.mark.parametrize("version", [4, 5])
def test_bytes_left_over_inside_the_qe_report_blob_are_refused(version: int) -> None:
    with pytest.raises(FormatError) as caught:
        Quote.parse(quote(version, section=signature_section(version, inside=b"x")))
    assert caught.value.code == "format.trailing"


def test_reserved_bytes_of_a_body_are_kept() -> None:
    """Quote verifiers do not look at them: the signature covers them, and a later CPU may give them a meaning."""
    data = quote(3, body=sgx_body(reserved=True))
    assert Quote.parse(data).build() == data


@pytest.mark.parametrize("name", QUOTES)
def test_a_quote_cut_anywhere_is_truncated(name: str) -> None:
    version, body_type = QUOTES[name]
    data = quote(version, body_type)
    for size in [*range(0, 60, 7), *range(60, len(data), 41), len(data) - 1]:
        with pytest.raises(FormatError) as caught:
            Quote.parse(data[:size])
        assert caught.value.code == "format.truncated"


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_section_cut_anywhere_is_truncated(version: int) -> None:
    section = signature_section(version)
    for size in range(0, len(section), 29):
        with pytest.raises(FormatError) as caught:
            Quote.parse(quote(version, section=section[:size]))
        assert caught.value.code == "format.truncated"


def huge(version: int, body_type: int, position: int, size: int = 4) -> bytes:
    """A quote with all bits of a length field set; a negative position counts from the end."""
    data = bytearray(quote(version, body_type))
    at = position if position >= 0 else len(data) + position
    data[at : at + size] = b"\xff" * size
    return bytes(data)


CERTIFICATION = len(b"-----BEGIN CERTIFICATE-----\n\0")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (huge(3, SGX_BODY, 432), "signature"),
        (huge(4, TD_10, 632), "signature"),
        (huge(5, SGX_BODY, 438), "signature"),
        (huge(4, SGX_BODY, 436 + 130), "certification data"),
        (huge(3, SGX_BODY, 436 + 576, 2), "qe_auth_data"),
        (huge(3, SGX_BODY, -CERTIFICATION - 4), "certification data"),
        (huge(4, TD_10, -CERTIFICATION - 4), "certification data"),
    ],
    ids=["v3", "v4", "v5", "blob", "auth", "v3 certification", "v4 certification"],
)
def test_huge_lengths_are_truncated_quotes(data: bytes, field: str) -> None:
    with pytest.raises(FormatError) as caught:
        Quote.parse(data)
    assert (caught.value.code, caught.value.field) == ("format.truncated", field)


def v5(tee_type: int, number: int, size: int, body: bytes) -> bytes:
    section = signature_section(5)
    return header(5, tee_type) + struct.pack("<HI", number, size) + body + struct.pack("<I", len(section)) + section


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (header(2, 0) + bytes(1000), "version"),
        (header(6, 0) + bytes(1000), "version"),
        (header(3, 0, key_type=3) + bytes(1000), "attestation_key_type"),
        (header(4, 0, key_type=0) + bytes(1000), "attestation_key_type"),
        (header(3, 0x81) + bytes(1000), "tee_type"),
        (header(4, 1) + bytes(1000), "tee_type"),
        (header(5, 0x8100) + bytes(1000), "tee_type"),
        (v5(0, 0, 384, bytes(384)), "body type"),
        (v5(0x81, 5, 384, bytes(384)), "body type"),
        (v5(0x81, 1, 384, bytes(384)), "body type"),
        (v5(0, 2, 584, bytes(584)), "body type"),
        (v5(0x81, 3, 584, bytes(584)), "body size"),
        (v5(0, 1, 385, bytes(385)), "body size"),
    ],
    ids=[
        "version 2",
        "version 6",
        "P-384",
        "EPID",
        "v3 TDX",
        "TEE 1",
        "TEE 8100",
        "body 0",
        "body 5",
        "SGX body of a TD",
        "TD body of an enclave",
        "1.0 size of 1.5",
        "odd size",
    ],
)
def test_what_nobody_defined_is_refused(data: bytes, field: str) -> None:
    with pytest.raises(FormatError) as caught:
        Quote.parse(data)
    assert (caught.value.code, caught.value.field) == ("quote.unsupported", field)


@pytest.mark.parametrize(
    "section",
    [
        signature_section(4, outer_kind=5),
        signature_section(4, kind=6),
        signature_section(4, kind=0),
        signature_section(4, kind=8),
    ],
    ids=["outer 5", "6 in 6", "0", "8"],
)
def test_certification_data_of_a_wrong_type_is_refused(section: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        Quote.parse(quote(4, section=section))
    assert caught.value.code == "quote.certification-type"


def test_certification_type_6_has_no_place_in_version_3() -> None:
    with pytest.raises(FormatError) as caught:
        Quote.parse(quote(3, section=signature_section(3, kind=6)))
    assert caught.value.code == "quote.certification-type"


def test_headers_have_intels_defaults() -> None:
    built = QuoteHeader(version=3, tee_type=TeeType.SGX).build()
    assert built == struct.pack("<HHIHH", 3, AttestationKeyType.ECDSA_P256, 0, 0, 0) + header(3, 0)[12:28] + bytes(20)
    with pytest.raises(FormatError):
        replace(QuoteHeader.parse(built), user_data=bytes(21)).build()


def test_the_vendor_is_for_the_verifier_to_judge() -> None:
    assert QuoteHeader.parse(header(3, 0, vendor=bytes(16))).qe_vendor_id == bytes(16)


def _cases(shared_data: Path) -> list[tuple[bytes, dict[str, Any]]]:
    folders = sorted((shared_data / "quotes").glob("*/quote.bin"))
    return [(path.read_bytes(), json.loads((path.parent / "expected.json").read_text())) for path in folders]


def test_real_quotes_come_out_as_they_went_in(shared_data: Path) -> None:
    cases = _cases(shared_data)
    assert len(cases) == 25
    for data, expected in cases:
        parsed = Quote.parse(data)
        assert parsed.build() == data
        assert signed_part(parsed.header, parsed.body_type, parsed.body) == parsed.signed
        assert (parsed.header.version, parsed.header.tee_type.name) == (expected["quote_version"], expected["tee"])
        assert parsed.signature.certification_data.kind == expected["certification_data_type"]
        assert parsed.body_type == expected.get("body_type", BodyType.SGX_REPORT if expected["tee"] == "SGX" else 2)


def test_fields_of_real_quotes_are_those_others_read(shared_data: Path) -> None:
    for data, expected in _cases(shared_data):
        body, fields = Quote.parse(data).body, dict(expected["report"])
        if isinstance(body, ReportBody):
            _compare_enclave(body, fields)
        else:
            _compare_td(body, fields)
        assert not fields  # every field of the list was compared


def _compare_enclave(body: ReportBody, fields: dict[str, Any]) -> None:
    assert body.attributes.debug is fields.pop("debug")
    assert body.mr_enclave.hex() == fields.pop("mrenclave")
    assert body.mr_signer.hex() == fields.pop("mrsigner")
    assert (body.isv_prod_id, body.isv_svn) == (fields.pop("isv_prod_id"), fields.pop("isv_svn"))
    assert body.attributes.build().hex() == fields.pop("attributes")
    assert body.misc_select.to_bytes(4, "little").hex() == fields.pop("miscselect")
    assert body.cpu_svn.hex() == fields.pop("cpu_svn")
    assert body.report_data.hex() == fields.pop("report_data")


def _compare_td(body: TdReport10, fields: dict[str, Any]) -> None:
    assert body.debug is fields.pop("debug")
    assert bool(body.td_attributes & 1 << 28) is fields.pop("sept_ve_disable")
    assert body.td_attributes.to_bytes(8, "little").hex() == fields.pop("td_attributes")
    assert body.xfam.to_bytes(8, "little").hex() == fields.pop("xfam")
    assert [body.rtmr0.hex(), body.rtmr1.hex(), body.rtmr2.hex(), body.rtmr3.hex()] == fields.pop("rtmr")
    if isinstance(body, TdReport15):
        assert body.tee_tcb_svn_2.hex() == fields.pop("tee_tcb_svn2")
        assert body.mr_service_td.hex() == fields.pop("mr_service_td")
    for name in list(fields):
        assert (name, getattr(body, name).hex()) == (name, fields.pop(name))
