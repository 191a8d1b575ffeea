# SPDX-License-Identifier: Apache-2.0
"""The root: Intel's is pinned, another one has to be given, and what was checked under one counts under no other."""

import datetime as dt
import hashlib
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import kubenclave
from kubenclave.dcap.anchor import TrustAnchor, intel_root, uncompressed_point
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.verify import verify
from kubenclave.errors import FormatError, TrustError
from kubenclave.platform.simulated.pki import Role
from vectors.scene import AT, OTHER_PKI, PKI, collateral_of, der, scene


def test_intels_root_key_is_the_published_one():
    spki = intel_root().key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert hashlib.sha256(spki).hexdigest() == "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
    assert intel_root().is_intel


def test_intels_root_certificate_gives_the_pinned_root(shared_data):
    read = TrustAnchor.from_certificate((shared_data / "quotes" / "intel_sgx_root_ca.der").read_bytes())
    assert read == intel_root()
    assert read.identity == intel_root().identity


def test_a_simulated_root_is_not_intels():
    anchor = TrustAnchor.from_certificate(PKI.root_der)
    assert not anchor.is_intel
    assert anchor.name == PKI.certificates[Role.ROOT].subject
    assert anchor.point == uncompressed_point(PKI.keys[Role.ROOT].public_key())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\n", id="pem"),
        pytest.param(PKI.root_der[:-1], id="truncated"),
        pytest.param(PKI.root_der + b"\0", id="trailing"),
        pytest.param(PKI.root_der.replace(b"\x02\x01\x02", b"\x02\x01\x07", 1), id="version-8"),
        pytest.param(PKI.root_der[:-1] + bytes([PKI.root_der[-1] ^ 1]), id="signature"),
        pytest.param(der(PKI.certificates[Role.TCB_SIGNER]), id="leaf"),
    ],
)
def test_what_is_no_root_is_a_format_error(content):
    with pytest.raises(FormatError) as refusal:
        TrustAnchor.from_certificate(content)
    assert refusal.value.code == "root.malformed"
    assert refusal.value.found
    assert "ParseError" not in str(refusal.value)


def test_the_point_keeps_leading_zeros():
    # The scalar is one whose x begins with a zero byte: 1 key in 256.
    from cryptography.hazmat.primitives.asymmetric import ec

    key = next(
        public
        for public in (ec.derive_private_key(number, ec.SECP256R1()).public_key() for number in range(1, 5000))
        if public.public_numbers().x < 1 << 248
    )
    assert uncompressed_point(key) == key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


@pytest.mark.parametrize("base", ["sgx-v3", "tdx-v4"])
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"not_after": AT - dt.timedelta(seconds=1)}, "certificate.expired", id="expired"),
        pytest.param({"not_before": AT + dt.timedelta(seconds=1)}, "certificate.not-yet-valid", id="future"),
        pytest.param({"name": OTHER_PKI.certificates[Role.PROCESSOR_CA].subject}, "pck.untrusted-root", id="name"),
        pytest.param({"name": x509.Name([])}, "pck.untrusted-root", id="no-name"),
    ],
)
def test_what_was_kept_under_a_root_does_not_count_for_another_with_the_same_key(base, changes, code):
    evidence, cache = scene(base).build(), Cache()
    anchor = TrustAnchor.from_certificate(PKI.root_der)
    for used in (Cache(), cache):
        verify(evidence.quote, collateral_of(evidence), at=AT, anchor=anchor, cache=used)
    other = replace(anchor, **changes)
    for used in (Cache(), cache):
        with pytest.raises(TrustError) as refusal:
            verify(evidence.quote, collateral_of(evidence), at=AT, anchor=other, cache=used)
        assert refusal.value.code == code


def test_a_simulated_quote_is_refused_under_intels_root():
    evidence = scene("sgx-v3").build()
    with pytest.raises(kubenclave.TrustError) as refusal:
        kubenclave.verify_quote(evidence.quote, collateral_of(evidence), at=AT, cache=Cache())
    assert refusal.value.code == "pck.untrusted-root"
    assert "(--root)" in str(refusal.value.hint)


def test_the_hint_of_an_untrusted_root_fits_a_root_that_was_given():
    evidence = scene("sgx-v3").build()
    with pytest.raises(kubenclave.TrustError) as refusal:
        kubenclave.verify_quote(evidence.quote, collateral_of(evidence), at=AT, root=OTHER_PKI.root_der, cache=Cache())
    assert refusal.value.code == "pck.untrusted-root"
    assert "leave --root out" in str(refusal.value.hint)


def test_pem_where_der_is_expected_is_called_by_its_name():
    pem = PKI.certificates[Role.ROOT].public_bytes(Encoding.PEM)
    with pytest.raises(FormatError) as refusal:
        TrustAnchor.from_certificate(pem)
    assert refusal.value.found == "PEM"
