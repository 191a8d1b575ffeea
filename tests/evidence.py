# SPDX-License-Identifier: Apache-2.0
"""A quote with everything that vouches for it, put together by hand under a PKI of its own: no CPU takes part."""

import datetime as dt
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from kubenclave.dcap.collateral import Collateral
from kubenclave.platform.simulated.enclaves import MR_SIGNER, QUOTING_ENCLAVE
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.pki import Pki, derive_key, raw_signature
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.certification import CertificationData, CertificationType
from kubenclave.sgx.quote import BodyType, Quote, QuoteHeader, QuoteSignature, TeeType, signed_part
from kubenclave.sgx.report import ReportBody

SEED = bytes(range(32))
NOW = dt.datetime(2026, 3, 5, 12, 0, tzinfo=dt.UTC)
AT = "2026-03-05T12:00:00Z"
MR_ENCLAVE = hashlib.sha256(b"an enclave").digest()
REPORT_DATA = b"what the enclave vouches for".ljust(64, b"\0")
BODY = ReportBody(
    cpu_svn=bytes(16),
    misc_select=0,
    attributes=Attributes(AttributeFlags.INIT | AttributeFlags.MODE64BIT, 3),
    mr_enclave=MR_ENCLAVE,
    mr_signer=hashlib.sha256(b"a signer").digest(),
    isv_prod_id=7,
    isv_svn=3,
    report_data=REPORT_DATA,
)


@dataclass(frozen=True)
class Evidence:
    """What a verifier is given; ``chain`` in PEM."""

    quote: bytes
    collateral: Collateral
    root: bytes
    chain: bytes

    def write(self, folder: Path) -> "Files":
        """Write all of it as files."""
        folder.mkdir(exist_ok=True)
        files = Files(folder)
        files.quote.write_bytes(self.quote)
        files.collateral.write_text(self.collateral.to_json())
        files.root.write_bytes(self.root)
        files.chain.write_bytes(self.chain)
        return files


@dataclass(frozen=True)
class Files:
    """Where the evidence lies."""

    folder: Path

    @property
    def quote(self) -> Path:
        return self.folder / "quote.bin"

    @property
    def collateral(self) -> Path:
        return self.folder / "collateral.json"

    @property
    def root(self) -> Path:
        return self.folder / "root.der"

    @property
    def chain(self) -> Path:
        return self.folder / "chain.pem"

    def arguments(self, at: str = AT) -> list[str]:
        """Return the options of ``quote verify`` that make it accept the quote."""
        return ["--collateral", str(self.collateral), "--root", str(self.root), "--at", at]

    def write(self, name: str, content: str | bytes) -> str:
        """Write one more file and return its path."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)


def make(body: ReportBody = BODY, *, tcb: PlatformTcb = PlatformTcb.UP_TO_DATE, chain_inside: bool = True) -> Evidence:
    """Sign a quote over ``body`` for a platform in that state; version 3."""
    issuer = Issuer(Pki.from_seed(SEED))
    pck, attestation = derive_key(SEED, "PCK"), derive_key(SEED, "attestation")
    chain = issuer.pck_chain(tcb, pck.public_key())
    header = QuoteHeader(version=3, tee_type=TeeType.SGX)
    signed = signed_part(header, BodyType.SGX_REPORT, body)
    point, auth = _point(attestation), bytes(range(32))
    qe_report = _qe_report(hashlib.sha256(point + auth).digest()).build()
    certification = (
        CertificationData(CertificationType.PCK_CERT_CHAIN, chain + b"\0")
        if chain_inside
        else CertificationData(CertificationType.PPID_CLEARTEXT, bytes(36))
    )
    signature = QuoteSignature(
        raw_signature(attestation, signed), point, qe_report, raw_signature(pck, qe_report), auth, certification
    )
    quote = Quote(header, BodyType.SGX_REPORT, body, signature, signed)
    return Evidence(quote.build(), issuer.collateral(tcb, NOW), issuer.root_der, chain)


def debug() -> Evidence:
    """Sign a quote of an enclave with the DEBUG attribute."""
    flags = BODY.attributes.flags | AttributeFlags.DEBUG
    return make(replace(BODY, attributes=Attributes(flags, BODY.attributes.xfrm)))


def _qe_report(report_data: bytes) -> ReportBody:
    target = QUOTING_ENCLAVE.target_info
    return ReportBody(
        cpu_svn=bytes(16),
        misc_select=0,
        attributes=target.attributes,
        mr_enclave=target.mr_enclave,
        mr_signer=MR_SIGNER,
        isv_prod_id=QUOTING_ENCLAVE.isv_prod_id,
        isv_svn=QUOTING_ENCLAVE.isv_svn,
        report_data=report_data.ljust(64, b"\0"),
    )


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
