# SPDX-License-Identifier: Apache-2.0
"""Collateral whose signatures, issuers and roles hold under a root: steps 3, 4 and 6 of the recipe."""

import hashlib
from dataclasses import dataclass

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.chain import (
    Certificate,
    Dated,
    verify_issuer_chain,
    verify_raw_signature,
    verify_tcb_signer,
)
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.crl import RevocationList, verify_crl
from kubenclave.dcap.documents import EnclaveIdentity, TcbInfo
from kubenclave.errors import FormatError, TrustError


@dataclass(frozen=True, slots=True)
class TrustedCollateral:
    """What collateral says, once it is known who says it. Dates are the caller's to judge (``dated``)."""

    pck_ca: Certificate
    root_crl: RevocationList
    pck_crl: RevocationList
    tcb_info: TcbInfo
    qe_identity: EnclaveIdentity
    dated: tuple[Dated, ...]

    @property
    def tcb_evaluation_data_number(self) -> int:
        """Generation of the collateral: the lower of the two documents'."""
        return min(self.tcb_info.tcb_evaluation_data_number, self.qe_identity.tcb_evaluation_data_number)


def verify_collateral(collateral: Collateral, anchor: TrustAnchor, cache: Cache) -> TrustedCollateral:
    """Check all of it under that root, whatever the time. Raises TrustError."""
    root_crl = verify_crl(collateral.root_ca_crl, "root CRL", anchor.subject, anchor.key)
    pck_ca = verify_issuer_chain(collateral.pck_crl_issuer_chain, anchor, cache).called("PCK CRL issuer")
    root_crl.refuse(pck_ca, "pck-ca.revoked")
    pck_crl = verify_crl(collateral.pck_crl, "PCK CRL", pck_ca.subject, pck_ca.key)

    tcb_signer = _signer(collateral.tcb_info_issuer_chain, anchor, "TCB info signer", root_crl, cache)
    verify_raw_signature(
        tcb_signer.key, collateral.tcb_info_signature, collateral.tcb_info, "TCB info", "tcb-info.signature"
    )
    qe_signer = _signer(collateral.qe_identity_issuer_chain, anchor, "QE identity signer", root_crl, cache)
    verify_raw_signature(
        qe_signer.key, collateral.qe_identity_signature, collateral.qe_identity, "QE identity", "qe-identity.signature"
    )
    try:
        tcb_info = TcbInfo.parse(collateral.tcb_info)
        qe_identity = EnclaveIdentity.parse(collateral.qe_identity)
    except FormatError as error:  # signed, and yet not what the specification allows: not a question of format
        raise TrustError(error.message, code=error.code, field=error.field, found=error.found) from error
    dated = (
        root_crl.dated,
        pck_ca.dated,
        pck_crl.dated,
        tcb_signer.dated,
        qe_signer.dated,
        Dated("TCB info", tcb_info.issue_date, tcb_info.next_update, is_collateral=True),
        Dated("QE identity", qe_identity.issue_date, qe_identity.next_update, is_collateral=True),
    )
    return TrustedCollateral(pck_ca, root_crl, pck_crl, tcb_info, qe_identity, dated)


def _signer(pem: bytes, anchor: TrustAnchor, what: str, root_crl: RevocationList, cache: Cache) -> Certificate:
    # Both documents usually come with the same chain.
    key = ("TCB signer", hashlib.sha256(pem).digest(), anchor.identity)
    signer = cache.get_or_check(key, lambda: verify_tcb_signer(pem, anchor, what, cache)).called(what)
    root_crl.refuse(signer, "tcb-signer.revoked")
    return signer
