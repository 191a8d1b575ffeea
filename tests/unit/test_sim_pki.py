# SPDX-License-Identifier: Apache-2.0
import datetime as dt
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kubenclave import UsageError
from kubenclave.dcap.anchor import TrustAnchor, intel_root
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.chain import verify_pck_chain, verify_tcb_signer
from kubenclave.dcap.crl import verify_crl
from kubenclave.dcap.pckext import SGX_EXTENSION, PckCa, PckExtension, SgxType
from kubenclave.platform.simulated import der
from kubenclave.platform.simulated.pki import (
    NOT_AFTER,
    ORGANISATION,
    Pki,
    Role,
    derive_key,
    pem_chain,
    sgx_entries,
    sgx_extension,
)
from tests.simulated_platform import NOW, SEED

LEAF_KEY = derive_key(b"k" * 16, "test").public_key()
PROCESSOR = PckExtension(
    ppid=b"p" * 16,
    components=tuple(range(120, 136)),
    pce_svn=300,
    cpu_svn=bytes(range(120, 136)),
    pce_id=b"\0\1",
    fmspc=b"fmspc\0",
    sgx_type=SgxType.STANDARD,
)
PLATFORM = replace(
    PROCESSOR,
    sgx_type=SgxType.SCALABLE_WITH_INTEGRITY,
    platform_instance_id=b"i" * 16,
    dynamic_platform=True,
    cached_keys=False,
    smt_enabled=True,
)
KINDS = [
    pytest.param(PckCa.PROCESSOR, PROCESSOR, id="processor"),
    pytest.param(PckCa.PLATFORM, PLATFORM, id="platform"),
]


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki.from_seed(SEED)


@pytest.fixture(scope="module")
def anchor(pki) -> TrustAnchor:
    return TrustAnchor.from_certificate(pki.root_der)


def leaf(pki, ca, extension):
    return pki.issue(pki.pck_template(LEAF_KEY, extension, ca))


def extensions_of(certificate):
    return {each.oid: each for each in certificate.extensions}


def test_same_seed_gives_the_same_bytes(pki):
    again = Pki.from_seed(SEED)
    assert [again.certificates[role].public_bytes(Encoding.DER) for role in Role] == [
        pki.certificates[role].public_bytes(Encoding.DER) for role in Role
    ]
    assert leaf(again, PckCa.PLATFORM, PLATFORM) == leaf(pki, PckCa.PLATFORM, PLATFORM)
    assert again.crl(Role.ROOT, NOW, NOW, revoked=[5]) == pki.crl(Role.ROOT, NOW, NOW, revoked=[5])
    assert again.sign(Role.TCB_SIGNER, b"text") == pki.sign(Role.TCB_SIGNER, b"text")


def test_another_seed_gives_other_keys_and_serial_numbers(pki):
    other = Pki.from_seed(bytes(32))
    for role in Role:
        assert other.keys[role].public_key() != pki.keys[role].public_key()
        assert other.certificates[role].serial_number != pki.certificates[role].serial_number


def test_each_role_has_a_key_of_its_own(pki):
    assert len({key.public_key().public_numbers() for key in pki.keys.values()}) == len(Role)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_seed_of_another_size_is_refused(size):
    with pytest.raises(UsageError) as refused:
        Pki.from_seed(bytes(size))
    assert refused.value.code == "simulated.seed"


def test_keys_and_seed_are_not_in_what_is_printed(pki):
    assert SEED.hex() not in repr(pki)
    assert repr(SEED) not in repr(pki)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name)
def test_names_are_intels_and_the_organisation_says_simulated(pki, role):
    subject = pki.certificates[role].subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == role.value
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == ORGANISATION
    assert "SIMULATED" in ORGANISATION
    assert subject != intel_root().name


@pytest.mark.parametrize(
    ("role", "issuer", "path_length"),
    [
        (Role.ROOT, Role.ROOT, 1),
        (Role.PROCESSOR_CA, Role.ROOT, 0),
        (Role.PLATFORM_CA, Role.ROOT, 0),
        (Role.TCB_SIGNER, Role.ROOT, None),
    ],
    ids=["root", "processor", "platform", "signer"],
)
def test_role_of_each_certificate(pki, role, issuer, path_length):
    certificate = pki.certificates[role]
    certificate.verify_directly_issued_by(pki.certificates[issuer])
    found = extensions_of(certificate)
    constraints = found[x509.BasicConstraints.oid]
    usage = found[x509.KeyUsage.oid]
    is_ca = role is not Role.TCB_SIGNER
    assert constraints.value == x509.BasicConstraints(ca=is_ca, path_length=path_length)
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (is_ca, is_ca)
    assert (usage.value.digital_signature, usage.value.content_commitment) == (not is_ca, not is_ca)
    assert {oid for oid, each in found.items() if each.critical} == {x509.BasicConstraints.oid, x509.KeyUsage.oid}
    assert {x509.AuthorityKeyIdentifier.oid, x509.SubjectKeyIdentifier.oid, x509.CRLDistributionPoints.oid} < set(found)


@pytest.mark.parametrize(("ca", "extension"), KINDS)
def test_leaf_reads_back_as_written(pki, anchor, ca, extension):
    chain = pem_chain(leaf(pki, ca, extension), pki.certificates[Role.of(ca)], pki.certificates[Role.ROOT])
    verified = verify_pck_chain(chain, anchor, Cache())
    assert verified.extension == extension
    assert verified.ca_kind is ca


@pytest.mark.parametrize(("extension", "entries"), [(PROCESSOR, 5), (PLATFORM, 7)], ids=["processor", "platform"])
def test_leaf_has_the_entries_of_its_ca(extension, entries):
    assert sorted(sgx_entries(extension)) == list(range(1, entries + 1))


def test_serial_number_of_a_leaf_follows_key_ca_and_tcb(pki):
    first = leaf(pki, PckCa.PLATFORM, PLATFORM).serial_number
    assert leaf(pki, PckCa.PLATFORM, PLATFORM).serial_number == first
    assert leaf(pki, PckCa.PLATFORM, replace(PLATFORM, pce_svn=1)).serial_number != first
    assert (
        pki.issue(pki.pck_template(pki.keys[Role.ROOT].public_key(), PLATFORM, PckCa.PLATFORM)).serial_number != first
    )
    assert first.bit_length() == 159


def test_template_changes_show_in_the_certificate(pki):
    ended = dt.datetime(2019, 1, 1, tzinfo=dt.UTC)
    comment = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.16.840.1.113730.1.13"), b"\x16\0")
    template = pki.pck_template(
        LEAF_KEY,
        PLATFORM,
        PckCa.PLATFORM,
        not_after=ended,
        without=frozenset({x509.SubjectKeyIdentifier.oid}),
        extra=((comment, True),),
    )
    certificate = pki.issue(template)
    found = extensions_of(certificate)
    assert certificate.not_valid_after_utc == ended
    assert x509.SubjectKeyIdentifier.oid not in found
    assert found[comment.oid].critical
    assert SGX_EXTENSION in found


def test_another_signer_makes_a_certificate_that_its_issuer_did_not_sign(pki):
    forged = pki.issue(pki.template(Role.PLATFORM_CA), signer=pki.keys[Role.TCB_SIGNER])
    with pytest.raises(InvalidSignature):
        forged.verify_directly_issued_by(pki.certificates[Role.ROOT])


def test_tcb_signer_is_accepted_in_its_role(pki, anchor):
    chain = pem_chain(pki.certificates[Role.TCB_SIGNER], pki.certificates[Role.ROOT])
    assert verify_tcb_signer(chain, anchor, "signer", Cache()).dated.not_after == NOT_AFTER


@pytest.mark.parametrize("role", [Role.ROOT, Role.PROCESSOR_CA, Role.PLATFORM_CA], ids=lambda role: role.name)
def test_crl_is_accepted_as_its_issuers_and_lists_what_is_revoked(pki, role):
    later = NOW + dt.timedelta(days=30)
    data = pki.crl(role, NOW, later, revoked=[5, 2**158])
    key = pki.keys[role].public_key()
    crl = verify_crl(data, "CRL", pki.certificates[role].subject.public_bytes(), key)
    assert (crl.dated.not_before, crl.dated.not_after) == (NOW, later)
    assert sorted(entry.serial_number for entry in crl.raw) == [5, 2**158]
    assert {entry.revocation_date_utc for entry in crl.raw} == {NOW}
    reasons = [entry.extensions.get_extension_for_class(x509.CRLReason).value.reason for entry in crl.raw]
    assert set(reasons) == {x509.ReasonFlags.key_compromise}
    assert crl.raw.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 1


def test_crl_can_lack_what_verifiers_need(pki):
    crl = x509.load_der_x509_crl(pki.crl(Role.ROOT, NOW, NOW, number=None, authority_key=False))
    assert len(crl.extensions) == 0


def test_crl_by_another_signer_carries_the_signers_key_id(pki):
    crl = x509.load_der_x509_crl(pki.crl(Role.ROOT, NOW, NOW, signer=pki.keys[Role.PLATFORM_CA]))
    assert not crl.is_signature_valid(pki.keys[Role.ROOT].public_key())
    assert crl.is_signature_valid(pki.keys[Role.PLATFORM_CA].public_key())


def test_raw_signature_is_r_and_s_of_32_bytes_each(pki):
    signature = pki.sign(Role.ROOT, b"message")
    assert len(signature) == 64
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    pki.keys[Role.ROOT].public_key().verify(encode_dss_signature(r, s), b"message", ec.ECDSA(SHA256()))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "020100"), (127, "02017f"), (128, "02020080"), (255, "020200ff"), (256, "02020100"), (65535, "020300ffff")],
    ids=str,
)
def test_integers_are_never_negative(value, encoded):
    assert der.integer(value).hex() == encoded


@pytest.mark.parametrize(
    ("size", "head"), [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100")], ids=str
)
def test_lengths_take_the_shortest_form(size, head):
    assert der.octets(bytes(size)) == bytes.fromhex(head) + bytes(size)


def test_broken_extension_can_be_composed():
    entries = sgx_entries(PLATFORM)
    del entries[4]
    assert sgx_extension(entries) != sgx_extension(sgx_entries(PLATFORM))
