# SPDX-License-Identifier: Apache-2.0
"""Every byte that somebody signs is changed once: the answer has to be no, with a warm cache as well.

What nobody signs (the root in the quote, line breaks of PEM, padding) may change nothing for the better.
"""

import dataclasses
from collections.abc import Iterator

import pytest
from cryptography import x509

import kubenclave
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.collateral import Collateral
from kubenclave.sgx.quote import Quote
from vectors.scene import AT, collateral_of, scene

BASES = ("sgx-v3", "tdx-v5")


def outcome(quote: bytes, collateral: Collateral, root: bytes | None, cache: Cache) -> str:
    try:
        return str(kubenclave.verify_quote(quote, collateral, at=AT, root=root, cache=cache).tcb_status)
    except (kubenclave.FormatError, kubenclave.VerificationError) as error:
        return error.code


def changes(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the data with one bit changed, once for each byte; the bit moves along."""
    for at in range(start, end):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        yield at, bytes(changed)


Signed = x509.Certificate | x509.CertificateRevocationList


def signed_part(signed: Signed) -> tuple[bytes, bytes]:
    """Return what was signed, and the signature: the rest of the DER (unused bits of a BIT STRING) vouches for none."""
    content = signed.tbs_certificate_bytes if isinstance(signed, x509.Certificate) else signed.tbs_certlist_bytes
    return content, signed.signature


def same_certificates(one: bytes, two: bytes, count: int) -> bool:
    """Whether two PEM chains hold the same first certificates: base64 has spare bits, PEM has line breaks."""
    first, second = (x509.load_pem_x509_certificates(pem)[:count] for pem in (one, two))
    return list(map(signed_part, first)) == list(map(signed_part, second))


def same_list(one: bytes, two: bytes) -> bool:
    return signed_part(x509.load_der_x509_crl(one)) == signed_part(x509.load_der_x509_crl(two))


@pytest.mark.parametrize("base", BASES)
def test_every_byte_of_a_quote(base):
    evidence, cache = scene(base).build(), Cache()
    collateral = collateral_of(evidence)
    assert outcome(evidence.quote, collateral, evidence.root, cache) == "UpToDate"
    chain = Quote.parse(evidence.quote).signature.certification_data.data
    start = evidence.quote.index(chain)
    # Lengths of version 3's section may shrink or grow over bytes that nobody reads.
    unsigned = {start - 1, start - 2, start - 3, start - 4} if base == "sgx-v3" else set()
    passed = []
    for at, quote in changes(evidence.quote, 0, len(evidence.quote)):
        answer = outcome(quote, collateral, evidence.root, cache)
        if answer == "UpToDate":
            now = Quote.parse(quote).signature.certification_data.data
            passed += [] if at in unsigned or same_certificates(chain, now, 2) else [at]
        assert answer == "UpToDate" or "." in answer
    assert passed == []


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "name", ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature", "qe_identity"]
)
def test_every_byte_of_what_signers_wrote(base, name):
    evidence, cache = scene(base).build(), Cache()
    collateral = collateral_of(evidence)
    assert outcome(evidence.quote, collateral, evidence.root, cache) == "UpToDate"
    content: bytes = getattr(collateral, name)
    passed = [
        at
        for at, changed in changes(content, 0, len(content))
        if outcome(evidence.quote, dataclasses.replace(collateral, **{name: changed}), evidence.root, cache)
        == "UpToDate"
        and not (name.endswith("_crl") and same_list(content, changed))
    ]
    assert passed == []


@pytest.mark.parametrize("base", BASES)
def test_bytes_of_tcb_info(base):
    evidence, cache = scene(base).build(), Cache()
    collateral = collateral_of(evidence)
    for at, changed in changes(collateral.tcb_info, 0, len(collateral.tcb_info)):
        if at % 5:
            continue  # it is long, and one signature covers it all alike
        answer = outcome(evidence.quote, dataclasses.replace(collateral, tcb_info=changed), evidence.root, cache)
        assert answer == "tcb-info.signature"


@pytest.mark.parametrize("name", ["pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_every_byte_of_an_issuer_chain(name):
    evidence, cache = scene("sgx-v3").build(), Cache()
    collateral = collateral_of(evidence)
    chain: bytes = getattr(collateral, name)
    for _, changed in changes(chain, 0, chain.index(b"-----END")):
        replaced = dataclasses.replace(collateral, **{name: changed})
        if outcome(evidence.quote, replaced, evidence.root, cache) == "UpToDate":
            assert same_certificates(chain, changed, 1)


@pytest.mark.parametrize("base", BASES)
def test_every_pair_of_swapped_collateral_parts(base):
    evidence, cache = scene(base).build(), Cache()
    collateral = collateral_of(evidence)
    names = sorted(evidence.collateral)
    for one in names:
        for two in names:
            was_one, was_two = getattr(collateral, one), getattr(collateral, two)
            swapped = dataclasses.replace(collateral, **{one: was_two, two: was_one})
            answer = outcome(evidence.quote, swapped, evidence.root, cache)
            assert answer == "UpToDate" if was_one == was_two else "." in answer
