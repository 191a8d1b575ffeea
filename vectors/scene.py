# SPDX-License-Identifier: Apache-2.0
"""One quote with its collateral, before anything is signed: what a case changes, it changes here.

A fresh scene is what the simulated platform makes (``kubenclave.platform.simulated``) on a day in January 2026. Seed
and dates are fixed and signatures deterministic: the same scene gives the same bytes.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.pckext import PckCa, PckExtension, SgxType
from kubenclave.platform.simulated.documents import (
    QE_ISV_SVN,
    QE_PROD_ID,
    TD_QE_ISV_SVN,
    TD_QE_PROD_ID,
    compact,
    qe_identity,
    tcb_info,
)
from kubenclave.platform.simulated.enclaves import MR_SIGNER
from kubenclave.platform.simulated.issuer import Periods
from kubenclave.platform.simulated.pki import Pki, Role, derive_key, pem_chain, raw_signature
from kubenclave.platform.simulated.tcb import FMSPC, PCE_ID, PlatformSvns, PlatformTcb
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.certification import CertificationData, CertificationType
from kubenclave.sgx.quote import Body, BodyType, Quote, QuoteHeader, QuoteSignature, TeeType, signed_part
from kubenclave.sgx.report import ReportBody
from kubenclave.sgx.tdreport import TdAttributes, TdReport10, TdReport15

AT: Final = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
PERIODS: Final = Periods.around(AT)
SEED: Final = hashlib.sha256(b"kubenclave vectors").digest()
OTHER_SEED: Final = hashlib.sha256(b"kubenclave vectors, another world").digest()
PKI: Final = Pki.from_seed(SEED)
OTHER_PKI: Final = Pki.from_seed(OTHER_SEED)
PCK_KEY: Final = derive_key(SEED, "PCK key of the vectors")
ATTESTATION_KEY: Final = derive_key(SEED, "attestation key of the vectors")
STRANGER: Final = derive_key(SEED, "key of somebody else")
AUTH_DATA: Final = bytes(range(32))
TDX_CURRENT: Final = (5, 0, 8, *[0] * 13)

BASES: Final = {
    "sgx-v3": (TeeType.SGX, 3, BodyType.SGX_REPORT),
    "sgx-v4": (TeeType.SGX, 4, BodyType.SGX_REPORT),
    "sgx-v5": (TeeType.SGX, 5, BodyType.SGX_REPORT),
    "tdx-v4": (TeeType.TDX, 4, BodyType.TD_REPORT_10),
    "tdx-v5": (TeeType.TDX, 5, BodyType.TD_REPORT_15),
}
"""What the vectors vary from: (TEE, quote version, body type)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verifier is given. ``root`` None means that nobody gave one: Intel's counts.

    ``text`` stands in for the collateral where its JSON itself is what a case is about.
    """

    quote: bytes
    collateral: dict[str, Any]
    root: bytes | None
    pck_chain: bytes | None = None
    text: str | None = None

    @property
    def collateral_text(self) -> str:
        """The collateral as a verifier reads it."""
        return json.dumps(self.collateral) if self.text is None else self.text

    def part(self, name: str, value: Any) -> "Evidence":
        """Return the same evidence with another value for one part of the collateral."""
        return replace(self, collateral={**self.collateral, name: value})


@dataclass
class Scene:
    """Mutable on purpose: a case sets what it wants otherwise, then ``build`` signs.

    ``signers`` are keys that sign a certificate or document in place of the right one, by the name of the thing.
    ``text`` writes TCB info and QE identity; ``chain`` is what the quote carries, leaf first.
    """

    tee: TeeType
    version: int
    body_type: BodyType
    ca: PckCa = PckCa.PLATFORM

    def __post_init__(self) -> None:
        sgx = self.tee is TeeType.SGX
        self.pki = PKI
        self.extension = extension(PlatformTcb.UP_TO_DATE.svns, self.ca)
        self.leaf_changes: dict[str, Any] = {}
        self.changes: dict[str, dict[str, Any]] = {}
        self.signers: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.tcb_info = tcb_info(PERIODS.issued, PERIODS.ends, tee=self.tee)
        self.qe_identity = qe_identity(PERIODS.issued, PERIODS.ends, MR_SIGNER, tee=self.tee)
        self.text: Callable[[dict[str, Any]], bytes] = compact
        self.crls: dict[str, dict[str, Any]] = {"root_ca_crl": {}, "pck_crl": {}}
        self.crl_role: Role = Role.of(self.ca)
        self.auth_data = AUTH_DATA
        self.attestation_key: bytes = point(ATTESTATION_KEY)
        self.binding: bytes | None = None
        self.qe = {
            "isv_svn": QE_ISV_SVN if sgx else TD_QE_ISV_SVN,
            "isv_prod_id": QE_PROD_ID if sgx else TD_QE_PROD_ID,
            "mr_signer": MR_SIGNER,
            "attributes": Attributes(0x15, 0x3),
            "misc_select": 0,
        }
        self.header: dict[str, Any] = {"qe_svn": QE_ISV_SVN, "pce_svn": 13} if self.version == 3 else {}
        self.body: dict[str, Any] = {}
        self.chain: Callable[[list[x509.Certificate]], list[x509.Certificate]] = list
        self.certification: tuple[CertificationType, bytes] | None = None
        self.root: bytes | None = self.pki.root_der

    def platform(self, svns: PlatformSvns) -> None:
        """Give the platform other SVNs."""
        self.extension = extension(svns, self.ca)

    def certificate(self, name: str) -> x509.Certificate:
        """Issue the certificate of that name: leaf, ca, crl_ca, tcb_signer, qe_signer or root."""
        if name == "leaf":
            template = self.pki.pck_template(PCK_KEY.public_key(), self.extension, self.ca)
            template = replace(template, **self.leaf_changes)
        else:
            roles = {"ca": Role.of(self.ca), "crl_ca": self.crl_role, "root": Role.ROOT}
            template = self.pki.template(roles.get(name, Role.TCB_SIGNER), **self.changes.get(name, {}))
        return self.pki.issue(template, signer=self.signers.get(name))

    def build(self) -> Evidence:
        """Sign everything."""
        chain = self.chain([self.certificate("leaf"), self.certificate("ca"), self.certificate("root")])
        certification = self.certification or (CertificationType.PCK_CERT_CHAIN, pem_chain(*chain) + b"\0")
        return Evidence(self._quote(CertificationData(*certification)), self._collateral(), self.root)

    def _quote(self, certification: CertificationData) -> bytes:
        header = QuoteHeader(version=self.version, tee_type=self.tee, user_data=QE_ID, **self.header)
        body = _BODIES[self.body_type](**self.body)
        signed = signed_part(header, self.body_type, body)
        digest = hashlib.sha256(self.attestation_key + self.auth_data).digest()
        qe_report = sgx_body(**self.qe, report_data=self.binding or digest + bytes(32)).build()
        signature = QuoteSignature(
            signature=raw_signature(self.signers.get("quote", ATTESTATION_KEY), signed),
            attestation_key=self.attestation_key,
            qe_report=qe_report,
            qe_report_signature=raw_signature(self.signers.get("qe_report", PCK_KEY), qe_report),
            qe_auth_data=self.auth_data,
            certification_data=certification,
        )
        return Quote(header, self.body_type, body, signature, signed).build()

    def _collateral(self) -> dict[str, Any]:
        root = self.certificate("root")
        return {
            "pck_crl_issuer_chain": pem_chain(self.certificate("crl_ca"), root).decode(),
            "root_ca_crl": self._crl("root_ca_crl", Role.ROOT, PERIODS.root_crl_issued, PERIODS.root_crl_ends),
            "pck_crl": self._crl("pck_crl", self.crl_role, PERIODS.issued, PERIODS.ends),
            **self._document("tcb_info", "tcb_signer", self.tcb_info, root),
            **self._document("qe_identity", "qe_signer", self.qe_identity, root),
        }

    def _crl(self, name: str, role: Role, issued: dt.datetime, ends: dt.datetime) -> str:
        arguments: dict[str, Any] = {"this_update": issued, "next_update": ends, **self.crls[name]}
        return self.pki.crl(arguments.pop("role", role), **arguments).hex()

    def _document(self, name: str, signer: str, document: dict[str, Any], root: x509.Certificate) -> dict[str, str]:
        text = self.text(document)
        key = self.signers.get(name, self.pki.keys[Role.TCB_SIGNER])
        return {
            f"{name}_issuer_chain": pem_chain(self.certificate(signer), root).decode(),
            name: text.decode(),
            f"{name}_signature": raw_signature(key, text).hex(),
        }


QE_ID: Final = hashlib.sha256(b"SIMULATED QE id of the vectors").digest()[:16] + bytes(4)


def scene(base: str, ca: PckCa = PckCa.PLATFORM) -> Scene:
    """Return the up-to-date scene of that name."""
    return Scene(*BASES[base], ca)


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return x‖y of a key, 64 bytes."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def extension(svns: PlatformSvns, ca: PckCa) -> PckExtension:
    """Return what the PCK certificate says of a platform with those SVNs."""
    platform_ca = ca is PckCa.PLATFORM
    return PckExtension(
        ppid=hashlib.sha256(b"SIMULATED PPID of the vectors").digest()[:16],
        components=svns.components,
        pce_svn=svns.pce_svn,
        cpu_svn=bytes(min(svn, 255) for svn in svns.components),
        pce_id=PCE_ID,
        fmspc=FMSPC,
        sgx_type=SgxType.SCALABLE if platform_ca else SgxType.STANDARD,
        platform_instance_id=bytes(range(16)) if platform_ca else None,
        dynamic_platform=True if platform_ca else None,
        cached_keys=False if platform_ca else None,
        smt_enabled=True if platform_ca else None,
    )


def sgx_body(**changes: Any) -> ReportBody:
    """Return the report of an enclave."""
    fields: dict[str, Any] = {
        "cpu_svn": bytes(16),
        "misc_select": 0,
        "attributes": Attributes(0x5, 0xE7),
        "mr_enclave": hashlib.sha256(b"enclave of the vectors").digest(),
        "mr_signer": hashlib.sha256(b"signer of the vectors").digest(),
        "isv_prod_id": 7,
        "isv_svn": 3,
        "report_data": bytes(range(64)),
    }
    return ReportBody(**{**fields, **changes})


def _td_fields(**changes: Any) -> dict[str, Any]:
    names = ("mr_seam", "mr_signer_seam", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr0", "rtmr1", "rtmr2")
    fields: dict[str, Any] = {name: bytes(48) for name in (*names, "rtmr3")}
    fields |= {
        "tee_tcb_svn": bytes(TDX_CURRENT),
        "seam_attributes": bytes(8),
        "td_attributes": int(TdAttributes.SEPT_VE_DISABLE),
        "xfam": 0x618E7,
        "mr_td": hashlib.sha384(b"trust domain of the vectors").digest(),
        "report_data": bytes(range(64)),
    }
    return {**fields, **changes}


def td_body(**changes: Any) -> TdReport10:
    """Return the report of a trust domain, version 1.0."""
    return TdReport10(**_td_fields(**changes))


def td_body15(**changes: Any) -> TdReport15:
    """Return the report of a trust domain, version 1.5; the module running now is the one of the launch."""
    fields = _td_fields(**changes)
    return TdReport15(**{"tee_tcb_svn_2": fields["tee_tcb_svn"], "mr_service_td": bytes(48), **fields})


_BODIES: Final[dict[BodyType, Callable[..., Body]]] = {
    BodyType.SGX_REPORT: sgx_body,
    BodyType.TD_REPORT_10: td_body,
    BodyType.TD_REPORT_15: td_body15,
}


def collateral_of(evidence: Evidence) -> Collateral:
    """Return the collateral as the verifier takes it. Raises FormatError."""
    return Collateral.from_json(evidence.collateral_text)


def der(certificate: x509.Certificate) -> bytes:
    """Return a certificate's bytes."""
    return certificate.public_bytes(Encoding.DER)
