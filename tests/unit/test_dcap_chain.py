# SPDX-License-Identifier: Apache-2.0
"""Chains and lists by themselves: limits and corners. What is wrong with a whole case is in the vectors."""

import base64
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.chain import (
    MAX_CHAIN_SIZE,
    load_chain,
    malformed_as,
    verify_issuer_chain,
    verify_pck_chain,
    verify_raw_signature,
    verify_tcb_signer,
)
from kubenclave.dcap.crl import verify_crl
from kubenclave.dcap.pckext import PckCa
from kubenclave.errors import TrustError
from kubenclave.platform.simulated.pki import Role, pem_chain, raw_signature
from vectors.cases_chain import _builder_of
from vectors.scene import OTHER_PKI, PCK_KEY, PERIODS, PKI, STRANGER, scene

ANCHOR = TrustAnchor.from_certificate(PKI.root_der)
ROOT = PKI.certificates[Role.ROOT]
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def armoured(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def pck_chain(ca: PckCa = PckCa.PLATFORM) -> bytes:
    staged = scene("sgx-v3", ca)
    return pem_chain(*(staged.certificate(name) for name in ("leaf", "ca", "root")))


@pytest.mark.parametrize("ca", list(PckCa), ids=str)
def test_a_pck_chain(ca):
    chain = verify_pck_chain(pck_chain(ca), ANCHOR, Cache())
    assert chain.ca_kind is ca
    assert chain.extension == scene("sgx-v3", ca).extension
    assert chain.leaf.key == PCK_KEY.public_key()
    assert chain.ca.key == PKI.keys[Role.of(ca)].public_key()


@pytest.mark.parametrize("others", [(), ("root",), ("root", "root")], ids=["alone", "root", "root twice"])
def test_a_ca_that_is_not_there_is_named(others):
    staged = scene("sgx-v3")
    with pytest.raises(TrustError) as refusal:
        verify_pck_chain(pem_chain(*(staged.certificate(name) for name in ("leaf", *others))), ANCHOR, Cache())
    error = refusal.value
    assert (error.code, error.message) == ("pck.chain", "the CA that issued the PCK certificate is not in its chain")
    assert error.expected == staged.certificate("leaf").issuer.rfc4514_string()
    assert error.found == (" and ".join([ROOT.subject.rfc4514_string()] * len(others)) or "the leaf alone")


def test_what_the_library_says_of_garbage_comes_without_its_innards():
    with pytest.raises(TrustError) as refusal:
        verify_pck_chain(armoured(b"0" * 99), ANCHOR, Cache())
    assert (refusal.value.code, refusal.value.found) == ("pck.malformed", "other bytes than DER of that kind")


def test_a_chain_beyond_the_limit_is_not_even_read():
    with pytest.raises(TrustError) as refusal:
        load_chain(b" " * (MAX_CHAIN_SIZE + 1), "chain", "pck.malformed", ANCHOR, Cache())
    assert refusal.value.found == f"{MAX_CHAIN_SIZE + 1} bytes"


def test_a_chain_at_the_limit_is_read():
    padded = pck_chain().ljust(MAX_CHAIN_SIZE, b"\n")
    assert len(load_chain(padded, "chain", "pck.malformed", ANCHOR, Cache())) == 3


def test_text_around_the_certificates_is_let_pass():
    assert verify_pck_chain(b"Subject: CN\n" + pck_chain() + b"\n \0", ANCHOR, Cache()).ca_kind is PckCa.PLATFORM


@pytest.mark.parametrize("warnings_are", ["error", "ignore"])
def test_a_serial_number_of_zero_is_refused_or_read_but_raises_nothing_else(warnings_are):
    # The X.509 library warns of it; a program may have made warnings errors.
    staged = scene("sgx-v3")
    der = staged.certificate("leaf").public_bytes(Encoding.DER)
    serial = staged.certificate("leaf").serial_number.to_bytes(20, "big")
    assert der.count(b"\x02\x14" + serial) == 1
    zero = der.replace(b"\x02\x14" + serial, b"\x02\x14" + b"\xff" * 20)
    pem = armoured(zero)
    with warnings.catch_warnings(), pytest.raises(TrustError):
        warnings.simplefilter(warnings_are, CryptographyDeprecationWarning)
        verify_pck_chain(pem + pem_chain(staged.certificate("ca"), ROOT), ANCHOR, Cache())


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        TypeError("no"),
        x509.InvalidVersion("no", 7),
        x509.UnsupportedGeneralNameType("no"),
        x509.DuplicateExtension("no", x509.KeyUsage.oid),
        CryptographyDeprecationWarning("no"),
        UserWarning("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_the_library_says_of_garbage_becomes_one_error(error):
    with pytest.raises(TrustError) as refusal, malformed_as("it", "pck.malformed"):
        raise error
    assert (refusal.value.code, refusal.value.found) == ("pck.malformed", "no")


def test_a_certificate_of_an_unknown_version_is_refused():
    der = (
        scene("sgx-v3")
        .certificate("leaf")
        .public_bytes(Encoding.DER)
        .replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    )
    pem = armoured(der)
    with pytest.raises(TrustError) as refusal:
        verify_pck_chain(pem, ANCHOR, Cache())
    assert refusal.value.code == "pck.malformed"


def test_names_of_other_kinds_in_an_extension_are_refused():
    # An x400Address as distribution point: a name that the X.509 library knows no form of.
    leaf = scene("sgx-v3").certificate("leaf").public_bytes(Encoding.DER)
    url = leaf.index(b"\x86", leaf.index(b"\x55\x1d\x1f"))
    der = leaf[:url] + b"\xa3" + leaf[url + 1 :]
    pem = armoured(der)
    with pytest.raises(TrustError) as refusal:
        verify_pck_chain(pem + pem_chain(scene("sgx-v3").certificate("ca"), ROOT), ANCHOR, Cache())
    assert refusal.value.code in {"pck.malformed", "pck.signature"}


def test_a_subject_with_two_common_names_has_no_role():
    genuine = PKI.certificates[Role.TCB_SIGNER]
    names = [*genuine.subject, x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "Intel SGX PCK Certificate")]
    certificate = _builder_of(genuine)
    certificate._subject_name = x509.Name(names)
    signed = certificate.sign(PKI.keys[Role.ROOT], hashes.SHA256())
    with pytest.raises(TrustError) as refusal:
        verify_tcb_signer(pem_chain(signed, ROOT), ANCHOR, "TCB info signer", Cache())
    assert refusal.value.code == "tcb-signer.role"


def test_both_cas_may_issue_lists():
    for role in (Role.PLATFORM_CA, Role.PROCESSOR_CA):
        certificate = verify_issuer_chain(pem_chain(PKI.certificates[role], ROOT), ANCHOR, Cache())
        assert certificate.key == PKI.keys[role].public_key()


def test_a_failed_root_is_not_kept():
    cache = Cache()
    chain = pem_chain(PKI.certificates[Role.PLATFORM_CA], OTHER_PKI.certificates[Role.ROOT])
    for _ in range(2):
        with pytest.raises(TrustError):
            verify_issuer_chain(chain, ANCHOR, cache)
    assert len(cache) == 0


def crl(revoked: list[int]):
    der = PKI.crl(Role.PLATFORM_CA, PERIODS.issued, PERIODS.ends, revoked=revoked)
    return verify_crl(
        der,
        "PCK CRL",
        PKI.certificates[Role.PLATFORM_CA].subject.public_bytes(),
        PKI.keys[Role.PLATFORM_CA].public_key(),
    )


def test_only_what_is_on_the_list_is_refused():
    leaf = verify_pck_chain(pck_chain(), ANCHOR, Cache()).leaf
    number = leaf.raw.serial_number
    crl([]).refuse(leaf, "pck.revoked")
    crl([number + 1, number - 1]).refuse(leaf, "pck.revoked")
    with pytest.raises(TrustError) as refusal:
        crl([*range(1, 200), number]).refuse(leaf, "pck.revoked")
    assert refusal.value.code == "pck.revoked"
    assert refusal.value.found == f"serial number {number:x}"


def signature_with(*, leading_zero_in: slice) -> tuple[bytes, bytes]:
    """Return message and signature whose r or s begins with a zero byte: 1 in 256."""
    for number in range(5000):
        message = number.to_bytes(4, "big")
        signature = raw_signature(PCK_KEY, message)
        if signature[leading_zero_in][0] == 0:
            return message, signature
    raise AssertionError("none in 5000")


@pytest.mark.parametrize("half", [slice(0, 32), slice(32, 64)], ids=["r", "s"])
def test_a_leading_zero_byte_does_no_harm(half):
    message, signature = signature_with(leading_zero_in=half)
    verify_raw_signature(PCK_KEY.public_key(), signature, message, "it", "quote.signature")


@pytest.mark.parametrize(
    ("r", "s"),
    [(0, None), (None, 0), (N, None), (None, N), (2**256 - 1, None), (0, 0), (None, 2**256 - 1)],
    ids=["r-0", "s-0", "r-n", "s-n", "r-most", "both-0", "s-most"],
)
def test_r_and_s_are_from_1_to_n_minus_1(r, s):
    good = raw_signature(PCK_KEY, b"message")
    changed = b"".join(
        part if value is None else value.to_bytes(32, "big") for part, value in ((good[:32], r), (good[32:], s))
    )
    with pytest.raises(TrustError) as refusal:
        verify_raw_signature(PCK_KEY.public_key(), changed, b"message", "it", "quote.signature")
    assert refusal.value.code == "quote.signature"


def test_the_other_s_is_as_good():
    good = raw_signature(PCK_KEY, b"message")
    other = good[:32] + (N - int.from_bytes(good[32:], "big")).to_bytes(32, "big")
    verify_raw_signature(PCK_KEY.public_key(), other, b"message", "it", "quote.signature")


def signed_anew(certificate: x509.Certificate, old: bytes, new: bytes, role: Role) -> bytes:
    """Return the certificate in PEM with other bytes in its signed part, and a signature of the role that holds."""
    tbs, algorithm = certificate.tbs_certificate_bytes, bytes.fromhex("300a06082a8648ce3d040302")
    assert (tbs.count(old), len(old)) == (1, len(new))
    tbs = tbs.replace(old, new)
    signature = PKI.keys[role].sign(tbs, ec.ECDSA(hashes.SHA256()))
    content = tbs + algorithm + bytes((0x03, len(signature) + 1, 0)) + signature
    return armoured(b"\x30\x82" + len(content).to_bytes(2, "big") + content)


def serial_of(certificate: x509.Certificate) -> bytes:
    return b"\x02\x14" + certificate.serial_number.to_bytes(20, "big")


VERSION = b"\xa0\x03\x02\x01\x02"


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("who", ["leaf", "ca", "crl_ca", "tcb_signer"])
@pytest.mark.parametrize("what", ["negative serial number", "version 1", "version 2"])
def test_a_certificate_that_its_ca_signed_against_the_rules_is_refused_and_raises_nothing_else(who, what):
    staged = scene("sgx-v3")
    certificate = staged.certificate(who)
    old, new = (
        (serial_of(certificate), b"\x02\x14\x80" + serial_of(certificate)[3:])
        if what.startswith("negative")
        else (VERSION, VERSION[:-1] + bytes([int(what[-1]) - 1]))
    )
    bad = signed_anew(certificate, old, new, Role.PLATFORM_CA if who == "leaf" else Role.ROOT)
    with pytest.raises(TrustError) as refusal:
        if who == "tcb_signer":
            verify_tcb_signer(bad, ANCHOR, "TCB info signer", Cache())
        elif who == "crl_ca":
            verify_issuer_chain(bad, ANCHOR, Cache())
        else:
            others = [staged.certificate(each) for each in ("leaf", "ca") if each != who]
            verify_pck_chain(bad + pem_chain(*others), ANCHOR, Cache())
    assert refusal.value.code.endswith(".malformed")


@pytest.mark.parametrize("critical", [True, False], ids=["critical", "aside"])
@pytest.mark.parametrize(
    "extension",
    [
        pytest.param(x509.DeltaCRLIndicator(1), id="delta"),
        pytest.param(x509.IssuingDistributionPoint(None, None, False, True, None, False, False), id="CAs only"),
        pytest.param(x509.IssuingDistributionPoint(None, None, False, False, None, True, False), id="indirect"),
    ],
)
def test_a_list_that_covers_only_some_certificates_is_refused(extension, critical):
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(PKI.certificates[Role.PLATFORM_CA].subject)
        .last_update(PERIODS.issued)
        .next_update(PERIODS.ends)
    )
    for each in x509.load_der_x509_crl(PKI.crl(Role.PLATFORM_CA, PERIODS.issued, PERIODS.ends)).extensions:
        builder = builder.add_extension(each.value, critical=False)
    key = PKI.keys[Role.PLATFORM_CA]
    partial = builder.add_extension(extension, critical=critical).sign(key, hashes.SHA256())
    issuer = PKI.certificates[Role.PLATFORM_CA].subject.public_bytes()
    with pytest.raises(TrustError) as refusal:
        verify_crl(partial.public_bytes(Encoding.DER), "PCK CRL", issuer, key.public_key())
    assert refusal.value.code == "crl.extensions"


def test_an_extension_with_a_number_that_the_library_has_no_name_for_is_refused_and_raises_nothing_else():
    staged = scene("sgx-v3")
    tls_feature = x509.UnrecognizedExtension(x509.TLSFeature.oid, bytes.fromhex("3004020200c8"))
    staged.leaf_changes = {"extra": ((tls_feature, False),)}
    staged.signers["leaf"] = STRANGER  # it is met before the signature, so anybody can send one
    with pytest.raises(TrustError) as refusal:
        verify_pck_chain(pem_chain(*(staged.certificate(name) for name in ("leaf", "ca"))), ANCHOR, Cache())
    assert refusal.value.code == "pck.malformed"


def test_a_key_that_is_no_point_of_its_curve_is_the_wrong_kind_of_key():
    staged = scene("sgx-v3")
    y = PCK_KEY.public_key().public_numbers().y.to_bytes(32, "big")
    bad = signed_anew(staged.certificate("leaf"), y, bytes(32), Role.PLATFORM_CA)
    with pytest.raises(TrustError) as refusal:
        verify_pck_chain(bad + pem_chain(staged.certificate("ca")), ANCHOR, Cache())
    assert refusal.value.code == "pck.key"


def test_bits_that_no_encoder_writes_behind_the_end_of_base64_are_refused():
    content = b"AB=="  # one zero byte, then four bits of which the last is set
    block = b"-----BEGIN CERTIFICATE-----\n" + content + b"\n-----END CERTIFICATE-----\n"
    with pytest.raises(TrustError) as refusal:
        verify_issuer_chain(block, ANCHOR, Cache())
    assert (refusal.value.code, refusal.value.found) == ("pck-ca.malformed", "bits behind the end of base64")
