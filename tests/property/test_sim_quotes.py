# SPDX-License-Identifier: Apache-2.0
"""Whatever the simulated platform quotes verifies, and no bit of what is signed can be another."""

import base64
import functools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave import FormatError, TrustError, verify_quote
from kubenclave.dcap.pckext import PckCa
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.certification import CertificationData, CertificationType
from kubenclave.sgx.quote import Quote
from kubenclave.sgx.report import ReportBody
from tests.simulated_platform import NOW, Platform

GOOD = [tcb for tcb in PlatformTcb if tcb not in {PlatformTcb.REVOKED, PlatformTcb.EXPIRED}]


PEM_BEGIN, PEM_END = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"


def pem_to_der(block: bytes) -> bytes:
    return base64.b64decode(block.removeprefix(PEM_BEGIN))


def der_to_pem(certificate: bytes) -> bytes:
    return PEM_BEGIN + base64.encodebytes(certificate) + PEM_END


@functools.cache
def platform_of(tcb: PlatformTcb, ca: PckCa) -> Platform:
    return Platform.ready(tcb, ca=ca)


@functools.cache
def one_quote() -> bytes:
    return platform_of(PlatformTcb.UP_TO_DATE, PckCa.PLATFORM).quote(bytes(range(64)))


def verify(platform: Platform, quote: bytes):
    return verify_quote(quote, platform.collateral(), at=NOW, root=platform.issuer.root_der)


@given(st.sampled_from(GOOD), st.sampled_from(list(PckCa)), st.binary(min_size=64, max_size=64))
def test_any_quote_verifies_and_says_what_the_report_said(tcb, ca, data):
    platform = platform_of(tcb, ca)
    quote = platform.quote(data)
    assert verify(platform, quote).tcb_status
    body = Quote.parse(quote).body
    assert isinstance(body, ReportBody)
    assert body.report_data == data


# Everything in front of the PEM text: header, REPORT body, signature, key, QE report, its signature, authentication
# data. The word behind the REPORT body, which nobody signs, and the certification data's type and size are lengths.
SIGNED = [*range(432), *range(436, 1012), *range(1014, 1046)]


@given(st.sampled_from(SIGNED), st.integers(0, 7))
def test_any_flipped_bit_of_what_is_signed_is_refused(offset, bit):
    quote = bytearray(one_quote())
    quote[offset] ^= 1 << bit
    with pytest.raises((TrustError, FormatError)):
        verify(platform_of(PlatformTcb.UP_TO_DATE, PckCa.PLATFORM), bytes(quote))


@pytest.mark.filterwarnings("ignore:Attribute's length")  # the X.509 library's opinion on a name like US in 11 bytes
@given(st.sampled_from([0, 1]), st.data())
def test_any_flipped_bit_of_leaf_or_ca_is_refused(which, data):
    platform, quote = platform_of(PlatformTcb.UP_TO_DATE, PckCa.PLATFORM), Quote.parse(one_quote())
    blocks = [pem_to_der(block) for block in (quote.signature.certification_data.pck_chain or b"").split(PEM_END)[:3]]
    bit = data.draw(st.integers(0, 8 * len(blocks[which]) - 1))
    changed = bytearray(blocks[which])
    changed[bit // 8] ^= 1 << bit % 8
    blocks[which] = bytes(changed)
    chain = CertificationData(CertificationType.PCK_CERT_CHAIN, b"".join(map(der_to_pem, blocks)))
    forged = replace(quote, signature=replace(quote.signature, certification_data=chain))
    with pytest.raises(TrustError):
        verify(platform, forged.build())


# Intel tolerates bytes behind the certification data, so a PEM text a byte shorter is no other quote.
@given(st.integers(432, 435) | st.integers(1012, 1013) | st.integers(1046, 1051), st.integers(0, 7))
def test_flipped_bits_of_lengths_and_types_never_change_the_verdict(offset, bit):
    platform = platform_of(PlatformTcb.UP_TO_DATE, PckCa.PLATFORM)
    quote = bytearray(one_quote())
    quote[offset] ^= 1 << bit
    try:
        verdict = verify(platform, bytes(quote))
    except (TrustError, FormatError):
        return
    assert (verdict.tcb_status, verdict.quote.body) == (TcbStatus.UP_TO_DATE, Quote.parse(one_quote()).body)
