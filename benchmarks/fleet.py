# SPDX-License-Identifier: Apache-2.0
"""Quotes of many SIMULATED platforms under one set of collateral, made without running any of them."""

import datetime as dt
import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from kubenclave.dcap.collateral import Collateral
from kubenclave.platform.simulated.documents import QE_ISV_SVN, QE_PROD_ID
from kubenclave.platform.simulated.enclaves import MR_SIGNER
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.pki import Pki, derive_key, raw_signature
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.certification import CertificationData, CertificationType
from kubenclave.sgx.quote import BodyType, Quote, QuoteHeader, QuoteSignature, TeeType, signed_part
from kubenclave.sgx.report import ReportBody

SEED: Final = hashlib.sha256(b"kubenclave benchmarks").digest()
AT: Final = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
AUTH_DATA: Final = bytes(range(32))
STATE: Final = PlatformTcb.UP_TO_DATE


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform of the fleet: its own PCK certificate and its own attestation key."""

    number: int
    chain: bytes
    attestation_key: ec.EllipticCurvePrivateKey = field(repr=False)
    qe_report: bytes
    qe_report_signature: bytes

    def quote(self, challenge: int) -> bytes:
        """Return a quote of one and the same enclave over the report data of that challenge."""
        body = _body(hashlib.sha512(challenge.to_bytes(8, "big")).digest(), b"\x11" * 32, b"\x22" * 32, 1, 1)
        header = QuoteHeader(version=3, tee_type=TeeType.SGX)
        signed = signed_part(header, BodyType.SGX_REPORT, body)
        signature = QuoteSignature(
            raw_signature(self.attestation_key, signed),
            _point(self.attestation_key),
            self.qe_report,
            self.qe_report_signature,
            AUTH_DATA,
            CertificationData(CertificationType.PCK_CERT_CHAIN, self.chain),
        )
        return Quote(header, BodyType.SGX_REPORT, body, signature, signed).build()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Platforms, and what their quotes are verified with."""

    platforms: tuple[Platform, ...]
    collateral: Collateral
    root: bytes

    @classmethod
    def of(cls, size: int, at: dt.datetime = AT) -> "Fleet":
        """Make a fleet of that many platforms, the same every time, and collateral that is current at that time."""
        pki = Pki.from_seed(SEED)
        issuers = [Issuer(pki, platform=number.to_bytes(4, "big")) for number in range(size)]
        platforms = tuple(_platform(issuer, number) for number, issuer in enumerate(issuers))
        return cls(platforms, issuers[0].collateral(STATE, at), pki.root_der)


def _platform(issuer: Issuer, number: int) -> Platform:
    secret = SEED + number.to_bytes(4, "big")
    pck, attestation = derive_key(secret, "PCK"), derive_key(secret, "attestation key")
    binding = hashlib.sha256(_point(attestation) + AUTH_DATA).digest()
    report = _body(binding.ljust(64, b"\0"), b"\x33" * 32, MR_SIGNER, QE_PROD_ID, QE_ISV_SVN).build()
    chain = issuer.pck_chain(STATE, pck.public_key())
    return Platform(number, chain, attestation, report, raw_signature(pck, report))


def _body(report_data: bytes, mr_enclave: bytes, mr_signer: bytes, isv_prod_id: int, isv_svn: int) -> ReportBody:
    # FLAGS: INIT and MODE64BIT, and PROVISION_KEY for the quoting enclave, as the QE identity wants.
    flags = 0x15 if mr_signer == MR_SIGNER else 0x05
    return ReportBody(
        cpu_svn=STATE.svns.cpu_svn,
        misc_select=0,
        attributes=Attributes(flags, 0x7),
        mr_enclave=mr_enclave,
        mr_signer=mr_signer,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        report_data=report_data,
    )


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
