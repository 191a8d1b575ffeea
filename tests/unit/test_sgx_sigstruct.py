# SPDX-License-Identifier: Apache-2.0
"""SIGSTRUCT: the bytes of real signers, our own signatures, and what EINIT would refuse."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError, TrustError
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.sigstruct import Sigstruct, assemble, rsa_signer, sign
from tests.samples import MODULUS, PRIVATE_EXPONENT, pattern

SIGNER = rsa_signer(MODULUS, PRIVATE_EXPONENT)
TEMPLATE = Sigstruct(
    enclave_hash=bytes(range(32)),
    attributes=Attributes(4, 3),
    attribute_mask=Attributes(0xFFFFFFFFFFFFFFFD, 0xFFFFFFFFFFFFFF1B),
    isv_prod_id=7,
    isv_svn=3,
    date=0x20250131,
)
SIGNED = sign(TEMPLATE, MODULUS, SIGNER)


def test_what_we_sign_holds_and_survives_the_bytes() -> None:
    SIGNED.check()
    assert Sigstruct.parse(SIGNED.build()) == SIGNED
    assert len(SIGNED.build()) == 1808
    assert len(SIGNED.signed_bytes()) == 256
    assert SIGNED.signed_bytes() == TEMPLATE.signed_bytes()
    assert SIGNED.sign_date == "2025-01-31"
    assert SIGNED.debug_allowed
    assert not replace(SIGNED, attribute_mask=Attributes((1 << 64) - 1, 0)).debug_allowed


def test_the_signature_is_that_of_an_independent_library() -> None:
    _verify_elsewhere(SIGNED)


def test_a_signature_of_an_independent_library_is_taken() -> None:
    """PKCS #1 v1.5 is deterministic: another signer makes the very same bytes."""
    key = rsa.RSAPrivateNumbers(
        *rsa.rsa_recover_prime_factors(MODULUS, 3, PRIVATE_EXPONENT),
        PRIVATE_EXPONENT,
        *_crt(),
        rsa.RSAPublicNumbers(3, MODULUS),
    ).private_key()
    signature = key.sign(TEMPLATE.signed_bytes(), padding.PKCS1v15(), hashes.SHA256())
    assert assemble(TEMPLATE, MODULUS, int.from_bytes(signature, "big")) == SIGNED


def _crt() -> tuple[int, int, int]:
    p, q = rsa.rsa_recover_prime_factors(MODULUS, 3, PRIVATE_EXPONENT)
    return rsa.rsa_crt_dmp1(PRIVATE_EXPONENT, p), rsa.rsa_crt_dmq1(PRIVATE_EXPONENT, q), rsa.rsa_crt_iqmp(p, q)


def _verify_elsewhere(sigstruct: Sigstruct) -> None:
    public = rsa.RSAPublicNumbers(3, int.from_bytes(sigstruct.modulus, "little")).public_key()
    octets = int.from_bytes(sigstruct.signature, "little").to_bytes(384, "big")
    public.verify(octets, sigstruct.signed_bytes(), padding.PKCS1v15(), hashes.SHA256())


def test_helper_values_are_the_quotients_of_the_specification() -> None:
    s, m = int.from_bytes(SIGNED.signature, "little"), MODULUS
    assert int.from_bytes(SIGNED.q1, "little") == s * s // m
    assert int.from_bytes(SIGNED.q2, "little") == s * (s * s % m) // m


FIELDS = [
    ("vendor", 16, 4),
    ("date", 20, 4),
    ("sw_defined", 40, 4),
    ("modulus", 128, 384),
    ("signature", 516, 384),
    ("misc_select", 900, 4),
    ("misc_mask", 904, 4),
    ("cet_attributes", 908, 1),
    ("cet_attributes_mask", 909, 1),
    ("isv_family_id", 912, 16),
    ("attributes", 928, 16),
    ("attribute_mask", 944, 16),
    ("enclave_hash", 960, 32),
    ("isv_ext_prod_id", 1008, 16),
    ("isv_prod_id", 1024, 2),
    ("isv_svn", 1026, 2),
    ("q1", 1040, 384),
    ("q2", 1424, 384),
]


@pytest.mark.parametrize(("name", "offset", "size"), FIELDS, ids=[row[0] for row in FIELDS])
def test_fields_stand_where_the_specification_has_them(name: str, offset: int, size: int) -> None:
    data = bytearray(SIGNED.build())
    written = pattern(name, size) if name != "vendor" else bytes.fromhex("86800000")
    data[offset : offset + size] = written
    value = getattr(Sigstruct.parse(bytes(data)), name)
    if isinstance(value, Attributes):
        value = value.build()
    assert (value if isinstance(value, bytes) else value.to_bytes(size, "little")) == written


def test_what_is_signed_is_two_stretches_of_128_bytes() -> None:
    data = SIGNED.build()
    assert SIGNED.signed_bytes() == data[:128] + data[900:1028]
    assert data[:16].hex() == "06000000e10000000000010000000000"
    assert data[24:40].hex() == "01010000600000006000000001000000"
    assert data[512:516].hex() == "03000000"


def test_mr_signer_is_over_the_little_endian_modulus() -> None:
    import hashlib

    assert SIGNED.mr_signer == hashlib.sha256(MODULUS.to_bytes(384, "little")).digest()


@pytest.mark.parametrize(
    "position",
    [*range(16, 44, 7), 128, 300, 516, 900, 908, 928, 944, 960, 1008, 1024, 1026, 1040, 1424, 1807],
)
def test_a_changed_byte_anywhere_is_found(position: int) -> None:
    data = bytearray(SIGNED.build())
    data[position] ^= 1
    with pytest.raises((FormatError, TrustError)):
        Sigstruct.parse(bytes(data)).check()


@pytest.mark.parametrize(
    ("position", "field"),
    [(0, "HEADER"), (15, "HEADER"), (24, "HEADER2"), (16, "VENDOR"), (512, "EXPONENT"), (44, None), (1030, None)],
)
def test_what_is_no_sigstruct_is_a_format_error(position: int, field: str | None) -> None:
    data = bytearray(SIGNED.build())
    data[position] ^= 1
    with pytest.raises(FormatError) as caught:
        Sigstruct.parse(bytes(data))
    assert caught.value.code == ("sigstruct.malformed" if field else "format.reserved")
    assert field is None or caught.value.field == field


@pytest.mark.parametrize("size", [0, 1807, 1809])
def test_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(FormatError) as caught:
        Sigstruct.parse(SIGNED.build().ljust(size, b"\0")[:size])
    assert caught.value.code == "format.size"


def test_intel_may_sign_too() -> None:
    intel = sign(replace(TEMPLATE, vendor=0x8086), MODULUS, SIGNER)
    assert Sigstruct.parse(intel.build()).vendor == 0x8086


@pytest.mark.parametrize(
    ("modulus", "signature"),
    [(0, 1), (MODULUS, 0), (MODULUS, MODULUS), (MODULUS, 1 << 4000), (MODULUS - 1, 5), (MODULUS >> 1, 5), (-3, 5)],
    ids=["modulus 0", "signature 0", "signature is modulus", "signature huge", "even", "short", "negative"],
)
def test_numbers_that_are_no_signature_are_refused(modulus: int, signature: int) -> None:
    with pytest.raises(TrustError) as caught:
        assemble(TEMPLATE, modulus, signature)
    assert caught.value.code == "sigstruct.signature"


def test_the_signature_of_another_template_is_refused() -> None:
    signature = int.from_bytes(SIGNED.signature, "little")
    with pytest.raises(TrustError):
        assemble(replace(TEMPLATE, isv_svn=4), MODULUS, signature)


@pytest.mark.parametrize("field", ["q1", "q2"])
def test_helper_values_are_checked(field: str) -> None:
    changes = {field: bytes(384)}
    with pytest.raises(TrustError) as caught:
        replace(SIGNED, **changes).check()  # type: ignore[arg-type]  # both fields are bytes
    assert caught.value.field == "Q1, Q2"


def test_output_names_the_identity() -> None:
    shown = SIGNED.as_dict()
    assert shown["mr_signer"] == SIGNED.mr_signer.hex()
    assert shown["mr_enclave"] == TEMPLATE.enclave_hash.hex()
    assert (shown["isv_prod_id"], shown["isv_svn"], shown["debug_allowed"]) == (7, 3, True)


def test_fields_of_the_wrong_size_do_not_build() -> None:
    with pytest.raises(FormatError):
        replace(TEMPLATE, enclave_hash=bytes(31)).build()


@given(
    st.builds(
        Sigstruct,
        enclave_hash=st.binary(min_size=32, max_size=32),
        attributes=st.builds(Attributes, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        attribute_mask=st.builds(Attributes, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        misc_select=st.integers(0, 2**32 - 1),
        misc_mask=st.integers(0, 2**32 - 1),
        cet_attributes=st.integers(0, 255),
        cet_attributes_mask=st.integers(0, 255),
        isv_family_id=st.binary(min_size=16, max_size=16),
        isv_ext_prod_id=st.binary(min_size=16, max_size=16),
        isv_prod_id=st.integers(0, 65535),
        isv_svn=st.integers(0, 65535),
        vendor=st.sampled_from([0, 0x8086]),
        date=st.integers(0, 2**32 - 1),
        sw_defined=st.integers(0, 2**32 - 1),
        modulus=st.binary(min_size=384, max_size=384),
        q2=st.binary(min_size=384, max_size=384),
    )
)
def test_build_and_parse_are_inverse(sigstruct: Sigstruct) -> None:
    built = sigstruct.build()
    assert Sigstruct.parse(built) == sigstruct
    assert Sigstruct.parse(built).build() == built


def _real(shared_data: Path) -> list[tuple[bytes, dict[str, Any]]]:
    enclaves = shared_data / "enclaves"
    fortanix = json.loads((enclaves / "fortanix" / "expected.json").read_text())
    found = [
        ((enclaves / "fortanix" / name).read_bytes(), fortanix[name])
        for name in ("test_enclave.sig", "sig1.sigstruct.bin")
    ]
    found += [
        (path.with_name("app.sig").read_bytes(), json.loads(path.read_text())["sigstruct"])
        for path in sorted((enclaves / "gramine").glob("*/expected.json"))
    ]
    for library in sorted((enclaves / "sdk").glob("*.so")):
        data = library.read_bytes()
        for block in json.loads(library.with_name(library.name + ".expected.json").read_text())["blocks"]:
            start = int(block["file_offset"], 16) + 64
            found.append((data[start : start + 1808], block["sigstruct"]))
    for path, section_size in (("oe-plain.signed", 1960), ("ego-like-server", 2064)):
        data = (enclaves / "oe" / path).read_bytes()
        expected = json.loads((enclaves / "oe" / f"{path}.expected.json").read_text())
        assert expected["oeinfo"]["section_size"] == section_size
        # the properties end with eight bytes 0xEC right behind SIGSTRUCT (enclaves.md 4.2)
        (start,) = [at for at in _all(data, b"\xec" * 8) if data[at - 1808 :][:4] == bytes.fromhex("06000000")]
        found.append((data[start - 1808 : start], expected["sigstruct"]))
    return found


def _all(data: bytes, part: bytes) -> list[int]:
    return [at for at in range(1808, len(data)) if data.startswith(part, at)]


def test_signers_in_the_wild_are_read_and_hold(shared_data: Path) -> None:
    vectors = _real(shared_data)
    assert len(vectors) == 11
    for data, expected in vectors:
        sigstruct = Sigstruct.parse(data)
        sigstruct.check()
        _verify_elsewhere(sigstruct)
        assert sigstruct.build() == data
        assert _as_listed(sigstruct) == expected


def _as_listed(sigstruct: Sigstruct) -> dict[str, object]:
    return {
        "date": sigstruct.sign_date,
        "vendor": hex(sigstruct.vendor),
        "mrenclave": sigstruct.enclave_hash.hex(),
        "mrsigner": sigstruct.mr_signer.hex(),
        "isvprodid": sigstruct.isv_prod_id,
        "isvsvn": sigstruct.isv_svn,
        "isvfamilyid": sigstruct.isv_family_id.hex(),
        "isvextprodid": sigstruct.isv_ext_prod_id.hex(),
        "attribute_flags": f"0x{sigstruct.attributes.flags:016x}",
        "attribute_xfrm": f"0x{sigstruct.attributes.xfrm:016x}",
        "attribute_flags_mask": f"0x{sigstruct.attribute_mask.flags:016x}",
        "attribute_xfrm_mask": f"0x{sigstruct.attribute_mask.xfrm:016x}",
        "miscselect": f"0x{sigstruct.misc_select:08x}",
        "misc_mask": f"0x{sigstruct.misc_mask:08x}",
        "debug": sigstruct.attributes.debug,
        "kss": bool(sigstruct.attributes.flags & AttributeFlags.KSS),
    }
