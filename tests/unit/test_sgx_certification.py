# SPDX-License-Identifier: Apache-2.0
"""Certification data: every type, and the contents of those that name a platform."""

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.certification import CertificationData, CertificationType, Ppid, certification_type
from tests.samples import pattern

PPIDS = [(1, 16), (2, 256), (3, 384)]


@pytest.mark.parametrize(("number", "size"), PPIDS, ids=["clear", "rsa-2048", "rsa-3072"])
def test_types_that_name_a_platform(number: int, size: int) -> None:
    data = pattern("ppid", size) + pattern("cpu svn", 16) + bytes.fromhex("0d00 0201")
    ppid = CertificationData(certification_type(number), data).ppid
    assert ppid == Ppid(data[:size], data[size : size + 16], 13, 0x0102)
    assert ppid.build() == data


@pytest.mark.parametrize(("number", "size"), PPIDS, ids=["clear", "rsa-2048", "rsa-3072"])
@pytest.mark.parametrize("difference", [-1, 1])
def test_contents_of_another_size(number: int, size: int, difference: int) -> None:
    data = bytes(size + 20 + difference)
    assert CertificationData(CertificationType(number), data).ppid is None
    with pytest.raises(FormatError) as caught:
        Ppid.parse(number, data)
    assert caught.value.code == "format.size"


@pytest.mark.parametrize("size", [0, 15, 255, 385])
def test_a_ppid_of_another_size_does_not_build(size: int) -> None:
    with pytest.raises(FormatError) as caught:
        Ppid(bytes(size), bytes(16), 0, 0).build()
    assert (caught.value.code, caught.value.field) == ("format.size", "ppid")


def test_a_ppid_with_a_field_that_does_not_fit_does_not_build() -> None:
    with pytest.raises(FormatError) as caught:
        Ppid(bytes(16), bytes(15), 0, 0).build()
    assert caught.value.code == "format.value"


@pytest.mark.parametrize("kind", [kind for kind in CertificationType if kind > 3], ids=lambda kind: kind.name)
def test_other_types_name_no_platform(kind: CertificationType) -> None:
    assert CertificationData(kind, bytes(36)).ppid is None


@pytest.mark.parametrize("data", [b"PEM\n", b"PEM\n\0", b"PEM\n\0\0"], ids=["plain", "one NUL", "two NULs"])
def test_a_chain_comes_without_the_nul_behind_it(data: bytes) -> None:
    assert CertificationData(CertificationType.PCK_CERT_CHAIN, data).pck_chain == b"PEM\n"


@pytest.mark.parametrize("kind", [kind for kind in CertificationType if kind != 5], ids=lambda kind: kind.name)
def test_other_types_hold_no_chain(kind: CertificationType) -> None:
    assert CertificationData(kind, b"PEM\n").pck_chain is None


def test_numbers_are_those_of_the_specification() -> None:
    assert [certification_type(number).name for number in range(1, 8)] == [
        "PPID_CLEARTEXT",
        "PPID_RSA2048_ENCRYPTED",
        "PPID_RSA3072_ENCRYPTED",
        "PCK_LEAF_CERT",
        "PCK_CERT_CHAIN",
        "QE_REPORT_CERT",
        "PLATFORM_MANIFEST",
    ]


@pytest.mark.parametrize("number", [0, 8, 65535])
def test_numbers_nobody_defined(number: int) -> None:
    with pytest.raises(FormatError) as caught:
        certification_type(number)
    assert (caught.value.code, caught.value.found) == ("quote.certification-type", str(number))
