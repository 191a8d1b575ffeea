# SPDX-License-Identifier: Apache-2.0
"""Strict DER: lengths, and the parts of certificates and lists against the X.509 library's own reading."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.dcap import der
from kubenclave.platform.simulated.pki import Role
from vectors.scene import PERIODS, PKI

COMMON_NAME = bytes.fromhex("550403")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"\x04\x00", (4, 2, 2), id="empty"),
        pytest.param(b"\x04\x01ab", (4, 2, 3), id="one-byte-and-more-behind"),
        pytest.param(b"\x30\x7f" + bytes(127), (0x30, 2, 129), id="127"),
        pytest.param(b"\x30\x81\x80" + bytes(128), (0x30, 3, 131), id="128"),
        pytest.param(b"\x30\x81\xff" + bytes(255), (0x30, 3, 258), id="255"),
        pytest.param(b"\x30\x82\x01\x00" + bytes(256), (0x30, 4, 260), id="256"),
        pytest.param(b"\x30\x83\x01\x00\x00" + bytes(1 << 16), (0x30, 5, 5 + (1 << 16)), id="65536"),
    ],
)
def test_an_element(data, expected):
    assert der.element(data, 0) == expected
    assert der.element(b"??" + data, 2) == tuple(each + 2 * (index > 0) for index, each in enumerate(expected))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30", id="tag-only"),
        pytest.param(b"\x30\x80\x00\x00", id="indefinite-length"),
        pytest.param(b"\x30\x81", id="length-missing"),
        pytest.param(b"\x30\x81\x7f" + bytes(127), id="127-in-two-octets"),
        pytest.param(b"\x30\x82\x01", id="length-cut"),
        pytest.param(b"\x30\x82\x00\xff" + bytes(255), id="255-in-three-octets"),
        pytest.param(b"\x30\x85\x01\x00\x00\x00\x00", id="length-in-six-octets"),
        pytest.param(b"\x30\xff" + bytes(127), id="most-octets"),
        pytest.param(b"\x04\x02a", id="content-cut"),
        pytest.param(b"\x04\x84\xff\xff\xff\xff", id="huge"),
    ],
)
def test_anything_else_is_an_error(data):
    with pytest.raises(der.DerError):
        der.element(data, 0)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
def test_the_parts_of_a_certificate_are_those_that_the_library_reads(role):
    certificate = PKI.certificates[role]
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert der.certificate(certificate.public_bytes(Encoding.DER)) == (
        certificate.tbs_certificate_bytes,
        certificate.issuer.public_bytes(),
        certificate.subject.public_bytes(),
        key,
    )


@pytest.mark.parametrize("revoked", [[], range(1, 4000)], ids=["empty", "long"])
def test_the_parts_of_a_list_are_those_that_the_library_reads(revoked):
    data = PKI.crl(Role.PLATFORM_CA, PERIODS.issued, PERIODS.ends, revoked=list(revoked))
    crl = x509.load_der_x509_crl(data)
    assert der.crl(data) == (crl.tbs_certlist_bytes, crl.issuer.public_bytes())


def sequence(*parts: bytes) -> bytes:
    return wrapped(0x30, b"".join(parts))


def wrapped(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


NAME = sequence(wrapped(0x31, sequence(wrapped(6, COMMON_NAME), wrapped(0x0C, b"CN"))))
NULL, NUMBER = b"\x05\x00", b"\x02\x01\x01"


def test_versions_may_be_absent():
    tbs = sequence(NUMBER, NULL, NAME, NULL, NAME, NULL)
    assert der.certificate(sequence(tbs, NULL)) == (tbs, NAME, NAME, NULL)
    tbs = sequence(sequence(), NAME)
    assert der.crl(sequence(tbs)) == (tbs, NAME)


@pytest.mark.parametrize("read", [der.certificate, der.crl], ids=["certificate", "list"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(sequence(), id="empty"),
        pytest.param(sequence(sequence()), id="signed-part-empty"),
        pytest.param(sequence(sequence(NUMBER)), id="signed-part-short"),
        pytest.param(sequence(NUMBER), id="signed-part-a-number"),
        pytest.param(wrapped(0x31, sequence(NUMBER)), id="set"),
        pytest.param(PKI.root_der[:-1], id="cut"),
        pytest.param(PKI.root_der + b"\0", id="trailing"),
    ],
)
def test_what_has_no_such_parts_is_an_error(read, data):
    with pytest.raises(der.DerError):
        read(data)


@given(st.binary(max_size=64), st.integers(0, 255))
def test_garbage_is_an_error_and_nothing_else(data, at):
    for read in (der.certificate, der.crl, lambda it: der.attributes(it, COMMON_NAME), lambda it: der.element(it, at)):
        for each in (data, sequence(data), sequence(sequence(data))):
            try:
                read(each)
            except der.DerError:
                continue


def test_the_values_of_one_kind_of_attribute():
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.COMMON_NAME, "one"),
            x509.NameAttribute(NameOID.COMMON_NAME, "zwölf"),
        ]
    )
    assert der.attributes(name.public_bytes(), COMMON_NAME) == [b"one", "zwölf".encode()]
    assert der.attributes(x509.Name([]).public_bytes(), COMMON_NAME) == []


def test_attributes_that_share_one_set():
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, "one"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "two")]
    name = x509.Name([x509.RelativeDistinguishedName(attributes)])
    assert der.attributes(name.public_bytes(), COMMON_NAME) == [b"one"]


def test_a_string_of_another_kind_counts_as_empty():
    name = NAME.replace(b"\x0c\x02CN", b"\x1e\x02CN")  # BMPString
    assert der.attributes(name, COMMON_NAME) == [b""]
