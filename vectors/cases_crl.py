# SPDX-License-Identifier: Apache-2.0
"""Cases about the two revocation lists: from whom, when, in what form."""

import datetime as dt
from collections.abc import Iterator
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from kubenclave.dcap.pckext import PckCa
from kubenclave.platform.simulated.pki import Role
from vectors.case import Case, make, part, put
from vectors.scene import AT, OTHER_PKI, PERIODS, PKI, STRANGER, scene

_YEAR: Final = dt.timedelta(days=365)
_SECOND: Final = dt.timedelta(seconds=1)


def cases() -> Iterator[Case]:
    """Yield them all."""
    yield from _crls("root_ca_crl", Role.ROOT)
    yield from _crls("pck_crl", Role.PLATFORM_CA)


def _crls(name: str, role: Role) -> Iterator[Case]:
    label = name.replace("_", "-")
    genuine = bytes.fromhex(scene("sgx-v3").build().collateral[name])
    changes: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("without-number", {"number": None}, "reject crl.extensions"),
        ("without-authority-key", {"authority_key": False}, "reject crl.extensions"),
        ("signed-by-a-stranger", {"signer": STRANGER}, "reject crl.signature"),
        ("of-another-world", {"signer": OTHER_PKI.keys[role]}, "reject crl.signature"),
        ("of-the-tcb-signer", {"role": Role.TCB_SIGNER}, "reject crl.issuer"),
        ("expired", {"next_update": AT - _SECOND}, "reject collateral.expired"),
        ("ends-now", {"next_update": AT}, "UpToDate"),
        ("not-yet-valid", {"this_update": AT + _SECOND}, "reject collateral.not-yet-valid"),
        ("begins-now", {"this_update": AT}, "UpToDate"),
    )
    for what, values, expect in changes:
        yield make(f"{label}-{what}", expect, put(crls={name: values}))
    grace = {"dangerously_accept_expired_collateral": 7}
    for days, expect in ((7, "UpToDate"), (8, "reject collateral.expired")):
        change = put(crls={name: {"this_update": AT - _YEAR, "next_update": AT - dt.timedelta(days=days)}})
        yield make(f"{label}-expired-{days}-days-ago-grace-7", expect, change, options=grace)
    signature_flipped = genuine[:-1] + bytes([genuine[-1] ^ 1])
    for what, content, expect in (
        ("empty", b"", "reject crl.malformed"),
        ("garbage", b"\x30\x03\x02\x01\x00", "reject crl.malformed"),
        ("truncated", genuine[:-1], "reject crl.malformed"),
        ("trailing-byte", genuine + b"\0", "reject crl.malformed"),
        ("signature-flipped", signature_flipped, "reject crl.signature"),
        ("indefinite-length", b"\x30\x80" + genuine[4:] + b"\0\0", "reject crl.malformed"),
        ("signed-with-sha384", _other_hash(role), "reject crl.signature"),
        ("unknown-critical-extension", _critical(role), "reject crl.extensions"),
    ):
        yield make(f"{label}-{what}", expect, after=part(name, content.hex()))
    collateral = scene("sgx-v3").build().collateral
    other = "pck_crl" if name == "root_ca_crl" else "root_ca_crl"
    yield make(f"{label}-is-the-other-list", "reject crl.issuer", after=part(name, collateral[other]))
    if name == "pck_crl":
        processor = scene("sgx-v3", PckCa.PROCESSOR).build().collateral
        yield make("pck-crl-of-the-other-ca", "reject crl.issuer", after=part(name, processor[name]))
        change = put(crl_role=Role.PROCESSOR_CA)
        yield make("pck-crl-and-chain-of-the-other-ca", "reject crl.other-ca", change)


def _crl_builder(role: Role) -> x509.CertificateRevocationListBuilder:
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(PKI.certificates[role].subject)
        .last_update(PERIODS.issued)
        .next_update(PERIODS.ends)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(PKI.keys[role].public_key()), critical=False)
    )


def _other_hash(role: Role) -> bytes:
    signed = _crl_builder(role).sign(PKI.keys[role], hashes.SHA384(), ecdsa_deterministic=True)
    return signed.public_bytes(Encoding.DER)


def _critical(role: Role) -> bytes:
    builder = _crl_builder(role).add_extension(x509.DeltaCRLIndicator(1), critical=True)
    return builder.sign(PKI.keys[role], hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)
