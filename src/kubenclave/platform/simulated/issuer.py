# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED counterpart of Intel's provisioning service: PCK certificates and collateral for a platform's state.

Pure: the seed, the state and the time go in, bytes come out. The issuer never sees a private key of the platform.
"""

import datetime as dt
import functools
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.pckext import PckCa, PckExtension, SgxType
from kubenclave.errors import UsageError
from kubenclave.platform.simulated.documents import qe_identity, signed, tcb_info
from kubenclave.platform.simulated.enclaves import MR_SIGNER
from kubenclave.platform.simulated.pki import NOT_BEFORE, Pki, Role, pem_chain
from kubenclave.platform.simulated.tcb import FMSPC, PCE_ID, PlatformTcb
from kubenclave.sgx.quote import TeeType

COLLATERAL_PERIOD: Final = dt.timedelta(days=30)
ROOT_CRL_PERIOD: Final = dt.timedelta(days=365)
_DAY: Final = dt.timedelta(days=1)
_SIGNATURE_SIZE: Final = 71  # of an ECDSA signature in DER, in bytes; 72 and 70 are the other common ones
_EXPIRED_BY: Final = COLLATERAL_PERIOD * 2


@dataclass(frozen=True, slots=True)
class Periods:
    """When collateral is valid; the root CRL lasts longer than the rest and ends no earlier."""

    issued: dt.datetime
    ends: dt.datetime
    root_crl_issued: dt.datetime
    root_crl_ends: dt.datetime

    @classmethod
    def around(cls, now: dt.datetime, *, expired: bool = False) -> "Periods":
        """Return periods that began at the midnight before yesterday's, so that a clock a little behind agrees.

        Expired ones ended about a month ago. Raises UsageError for a time without a zone.
        """
        if now.tzinfo is None:
            raise UsageError(
                "a time without a zone", code="usage.naive-time", field="now", expected="an aware datetime"
            )
        midnight = now.astimezone(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        issued = midnight - (_EXPIRED_BY if expired else _DAY)
        ends = issued + COLLATERAL_PERIOD
        root_crl_issued = ends - ROOT_CRL_PERIOD if expired else issued
        return cls(issued, ends, root_crl_issued, root_crl_issued + ROOT_CRL_PERIOD)


class Issuer:
    """Certifies one platform. ``platform`` (any bytes) tells platforms under the same root apart.

    ``ca`` says which of the two PCK CAs issues: certificates of the Platform CA have seven entries, else five.
    """

    def __init__(self, pki: Pki, *, platform: bytes = b"", ca: PckCa = PckCa.PLATFORM) -> None:
        self.pki: Final = pki
        self.ca: Final = ca
        self._platform: Final = platform
        self._leaf: Callable[[PlatformTcb, bytes], x509.Certificate] = functools.lru_cache(maxsize=16)(self._issue_leaf)
        self._dated: Callable[[Periods, TeeType, frozenset[int]], Collateral] = functools.lru_cache(maxsize=4)(
            self._issue_collateral
        )

    @property
    def root_der(self) -> bytes:
        """The root certificate, DER."""
        return self.pki.root_der

    def extension(self, tcb: PlatformTcb) -> PckExtension:
        """Return what the PCK certificate says of the platform in that state."""
        platform_ca = self.ca is PckCa.PLATFORM
        return PckExtension(
            ppid=self._identifier("PPID"),
            components=tcb.svns.components,
            pce_svn=tcb.svns.pce_svn,
            cpu_svn=tcb.svns.cpu_svn,
            pce_id=PCE_ID,
            fmspc=FMSPC,
            sgx_type=SgxType.SCALABLE if platform_ca else SgxType.STANDARD,
            platform_instance_id=self._identifier("platform instance id") if platform_ca else None,
            dynamic_platform=False if platform_ca else None,
            cached_keys=False if platform_ca else None,
            smt_enabled=True if platform_ca else None,
        )

    def leaf(self, tcb: PlatformTcb, pck_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """Return the PCK certificate for the public key that the platform's PCE has in that state."""
        numbers = pck_key.public_numbers()
        return self._leaf(tcb, numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big"))

    def pck_chain(self, tcb: PlatformTcb, pck_key: ec.EllipticCurvePublicKey) -> bytes:
        """Return leaf, PCK CA and root in PEM, in this order."""
        return pem_chain(self.leaf(tcb, pck_key), *self._chain(Role.of(self.ca)))

    @property
    def serials(self) -> frozenset[int]:
        """Serial numbers of all PCK certificates of this platform."""
        return frozenset(self._serial(state) for state in PlatformTcb)

    def collateral(
        self,
        tcb: PlatformTcb,
        now: dt.datetime,
        *,
        tee: TeeType = TeeType.SGX,
        others_revoked: frozenset[int] = frozenset(),
    ) -> Collateral:
        """Return collateral for the platform in that state; the same bytes all day (UTC).

        Verifying with it gives exactly the status of the state. ``REVOKED`` puts every PCK certificate of this
        platform on the CRL, ``EXPIRED`` gives collateral that was current a month ago. ``others_revoked`` are serial
        numbers for the CRL from other platforms under the same root.
        """
        periods = Periods.around(now, expired=tcb is PlatformTcb.EXPIRED)
        revoked = others_revoked | (self.serials if tcb is PlatformTcb.REVOKED else frozenset())
        return self._dated(periods, tee, revoked)

    def _issue_collateral(self, periods: Periods, tee: TeeType, revoked: frozenset[int]) -> Collateral:
        pki, ca = self.pki, Role.of(self.ca)
        info = signed(pki, tcb_info(periods.issued, periods.ends, tee=tee))
        identity = signed(pki, qe_identity(periods.issued, periods.ends, MR_SIGNER, tee=tee))
        signer_chain = pem_chain(*self._chain(Role.TCB_SIGNER))
        return Collateral(
            pck_crl_issuer_chain=pem_chain(*self._chain(ca)),
            root_ca_crl=pki.crl(Role.ROOT, periods.root_crl_issued, periods.root_crl_ends),
            pck_crl=pki.crl(ca, periods.issued, periods.ends, revoked=sorted(revoked)),
            tcb_info_issuer_chain=signer_chain,
            tcb_info=info[0],
            tcb_info_signature=info[1],
            qe_identity_issuer_chain=signer_chain,
            qe_identity=identity[0],
            qe_identity_signature=identity[1],
        )

    def _issue_leaf(self, tcb: PlatformTcb, point: bytes) -> x509.Certificate:
        """Issue a certificate whose signature takes 71 bytes, as half of them do: of many that differ by seconds.

        So quotes keep their size when the TCB changes, and clients that have asked for it before get theirs.
        """
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
        template = self.pki.pck_template(key, self.extension(tcb), self.ca, serial=self._serial(tcb))
        candidates = (
            self.pki.issue(replace(template, not_before=NOT_BEFORE + dt.timedelta(seconds=seconds)))
            for seconds in itertools.count()
        )
        return next(leaf for leaf in candidates if len(leaf.signature) == _SIGNATURE_SIZE)

    def _serial(self, tcb: PlatformTcb) -> int:
        # Not from the key: collateral that revokes a certificate is made without knowing it.
        return self.pki.serial(b"PCK\0" + self._identifier("PPID") + tcb.svns.cpu_svn)

    def _chain(self, role: Role) -> tuple[x509.Certificate, x509.Certificate]:
        return self.pki.certificates[role], self.pki.certificates[Role.ROOT]

    def _identifier(self, name: str) -> bytes:
        return hashlib.sha256(f"SIMULATED {name}\0".encode() + self.pki.seed + self._platform).digest()[:16]
