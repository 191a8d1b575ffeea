# SPDX-License-Identifier: Apache-2.0
"""SIGSTRUCT: the bytes of real signers, our own signatures, and what EINIT would refuse."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError, TrustError
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.sigstruct import Sigstruct, assemble, rsa_signer, sign

_KEY = rsa.generate_private_key(public_exponent=3, key_size=3072).private_numbers()
MODULUS = _KEY.public_numbers.n
SIGNER = rsa_signer(MODULUS, _KEY.d)
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
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    octets = int.from_bytes(SIGNED.signature, "little").to_bytes(384, "big")
    _KEY.public_numbers.public_key().verify(octets, SIGNED.signed_bytes(), padding.PKCS1v15(), hashes.SHA256())


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


def _real(shared_data: Path) -> list[tuple[bytes, dict[str, str]]]:
    enclaves = shared_data / "enclaves"
    found: list[tuple[bytes, dict[str, str]]] = []
    for expected in sorted((enclaves / "gramine").glob("*/expected.json")):
        found.append(((expected.parent / "app.sig").read_bytes(), json.loads(expected.read_text())["sigstruct"]))
    fortanix = json.loads((enclaves / "fortanix" / "expected.json").read_text())
    for name in ("test_enclave.sig", "sig1.sigstruct.bin"):
        found.append(((enclaves / "fortanix" / name).read_bytes(), fortanix[name]))
    for library in sorted((enclaves / "sdk").glob("*.so")):
        data = library.read_bytes()
        for block in json.loads(library.with_name(library.name + ".expected.json").read_text())["blocks"]:
            start = int(block["file_offset"], 16) + 64
            found.append((data[start : start + 1808], block["sigstruct"]))
    return found


def test_signers_in_the_wild_are_read_and_hold(shared_data: Path) -> None:
    vectors = _real(shared_data)
    assert len(vectors) >= 9
    for data, expected in vectors:
        sigstruct = Sigstruct.parse(data)
        sigstruct.check()
        assert sigstruct.build() == data
        assert sigstruct.mr_signer.hex() == expected["mrsigner"]
        assert sigstruct.enclave_hash.hex() == expected["mrenclave"]
        assert sigstruct.sign_date == expected["date"]
        assert sigstruct.isv_svn == expected["isvsvn"]
        assert hex(sigstruct.attribute_mask.xfrm) == expected["attribute_xfrm_mask"]
