# SPDX-License-Identifier: Apache-2.0
"""RA-TLS certificates: both forms are read, the key is bound, nothing falls back."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.dcap.ratls import MAX_SIZE, RaTlsCertificate
from kubenclave.errors import FormatError, TrustError
from tests import ratls

QUOTE = b"a quote, of which nothing is looked at here"


def bound(form, **how):
    """A certificate, and the report data that its quote was made over."""
    seen = []

    def quote(data):
        seen.append(data)
        return QUOTE

    return form(quote, **how), seen[0]


@pytest.mark.parametrize("encoded", [ratls.pem, ratls.der])
@pytest.mark.parametrize("oid", [ratls.LEGACY, ratls.GRAMINE])
def test_legacy_certificate_is_bound_by_its_public_key(encoded, oid):
    made, report_data = bound(ratls.legacy, oid=oid)
    read = RaTlsCertificate.parse(encoded(made))
    assert (read.form, read.quote, read.nonce) == ("legacy", QUOTE, None)
    assert read.bound == read.public_key_info
    read.check_binding(report_data)
    with pytest.raises(TrustError, match="public key") as caught:
        read.check_binding(bytes(64))
    assert caught.value.code == "ra-tls.binding"


def test_gramine_writes_an_oid_within_an_oid():
    made, _ = bound(ratls.legacy)
    assert bytes.fromhex("060b06092a864886f84d8a3906") in ratls.der(made)


def test_dice_certificate_is_bound_by_its_claims():
    made, report_data = bound(ratls.dice, nonce=b"of the day")
    read = RaTlsCertificate.parse(ratls.der(made))
    assert (read.form, read.quote, read.nonce) == ("dice", QUOTE, b"of the day")
    read.check_binding(report_data)
    with pytest.raises(TrustError, match="claims"):
        read.check_binding(bytes(64))


@pytest.mark.parametrize("algorithm", [1, 7, 8])
def test_claims_name_the_hash_of_the_key(algorithm):
    key = ratls.new_key()
    made = ratls.certificate(key, {ratls.DICE: ratls.tagged(QUOTE, ratls.claims(key, algorithm=algorithm))})
    assert RaTlsCertificate.parse(ratls.der(made)).form == "dice"


def test_claims_of_another_key_are_refused():
    key = ratls.new_key()
    made = ratls.certificate(key, {ratls.DICE: ratls.tagged(QUOTE, ratls.claims(ratls.new_key()))})
    assert refusal(made) == "ra-tls.key-hash"


MALFORMED = {
    "no CBOR": b"\xff",
    "another tag": b"\xd9\xea\x61\x82\x40\x40",
    "no tag": b"\x82\x40\x40",
    "one item": b"\xd9\xea\x60\x81\x40",
    "text in place of a quote": b"\xd9\xea\x60\x82\x60\x40",
    "claims that are no CBOR": ratls.tagged(QUOTE, b"\xff"),
    "claims that are no map": ratls.tagged(QUOTE, b"\x80"),
    "claims without a key": ratls.tagged(QUOTE, b"\xa0"),
    "key hash not serialised": ratls.tagged(QUOTE, b"\xa1\x6bpubkey-hash\x82\x01\x40"),
    "unknown hash": ratls.tagged(QUOTE, b"\xa1\x6bpubkey-hash\x43\x82\x02\x40"),
    "nonce that is text": ratls.tagged(QUOTE, b"\xa1\x65nonce\x60"),
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_broken_dice_evidence_never_falls_back_to_legacy(value):
    made = ratls.certificate(ratls.new_key(), {ratls.DICE: value, ratls.LEGACY: QUOTE})
    assert refusal(made) in {"ra-tls.malformed", "cbor.malformed"}


def test_certificate_without_evidence():
    assert refusal(ratls.certificate(ratls.new_key(), {})) == "ra-tls.no-evidence"


def test_certificate_that_another_key_signed():
    made = ratls.certificate(ratls.new_key(), {ratls.LEGACY: QUOTE}, signer=ratls.new_key())
    assert refusal(made) == "ra-tls.malformed"


@pytest.mark.parametrize("data", [b"", b"-----BEGIN CERTIFICATE-----\n", b"0" * (MAX_SIZE + 1)])
def test_no_certificate(data):
    with pytest.raises(FormatError) as caught:
        RaTlsCertificate.parse(data)
    assert caught.value.code == "ra-tls.malformed"


def test_one_certificate_only():
    made, _ = bound(ratls.legacy)
    with pytest.raises(FormatError, match="several"):
        RaTlsCertificate.parse(ratls.pem(made) * 2)


def test_dates():
    made, _ = bound(ratls.legacy, end=ratls.START + dt.timedelta(days=1))
    read = RaTlsCertificate.parse(ratls.der(made))
    read.check_dates(ratls.START)
    for when in (ratls.START - dt.timedelta(seconds=1), ratls.START + dt.timedelta(days=2)):
        with pytest.raises(TrustError) as caught:
            read.check_dates(when)
        assert caught.value.code == "ra-tls.dates"


def refusal(made):
    with pytest.raises(FormatError) as caught:
        RaTlsCertificate.parse(ratls.der(made))
    return caught.value.code


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: ratls.tagged(QUOTE, data)))
def test_garbage_in_the_extension_is_a_format_error(value):
    made = ratls.certificate(KEY, {ratls.DICE: value})
    with pytest.raises(FormatError):
        RaTlsCertificate.parse(ratls.der(made))


@given(st.data())
def test_damaged_certificates_are_format_errors(data):
    octets = bytearray(DAMAGED)
    octets[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = RaTlsCertificate.parse(bytes(octets))
    except FormatError:
        return
    assert read.quote == QUOTE, "its own signature covers the certificate"


KEY = ratls.new_key()
DAMAGED = ratls.der(bound(ratls.dice)[0])
