# SPDX-License-Identifier: Apache-2.0
"""The recipe that says whether a quote is genuine, and whether everything that says so is current.

1.  Read the quote; only Intel's quoting enclaves are known.
2.  PCK chain: leaf, PCK CA, the given root.
3.  Root CRL: from the root; neither the PCK CA nor a TCB signer is on it.
4.  PCK CRL: from the very CA that issued the leaf; the leaf is not on it.
5.  Dates: everything dated is valid at the one time given.
6.  TCB info and QE identity: signed by a TCB signer that the root itself issued.
7.  Binding: TCB info speaks of this TEE, this FMSPC and this PCE.
8.  TDX: the module is one that TCB info describes.
9.  QE report: signed by the PCK leaf.
10. Attestation key: the QE report's data is its hash.
11. QE identity: the quoting enclave is the one it describes.
12. Quote: signed by the attestation key.
13. TCB: levels of platform, quoting enclave and TDX module, converged.

What the enclave is and whether its status is good enough is for appraisal (step 14, ``appraise``). Steps 2 to 4, 6, 7
and 9 to 11 do not depend on the time or on what was signed in this one quote, so their outcome is kept; a further quote
of the same enclave costs one signature.
"""

import datetime as dt
import hashlib
from dataclasses import InitVar, dataclass
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.chain import Dated, PckChain, verify_pck_chain, verify_raw_signature
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.describe import zulu
from kubenclave.dcap.documents import TcbLevel
from kubenclave.dcap.evaluate import TcbEvaluation, evaluate_qe, evaluate_sgx, evaluate_tdx
from kubenclave.dcap.trusted import TrustedCollateral, verify_collateral
from kubenclave.errors import FormatError, TrustError, UsageError
from kubenclave.sgx.quote import INTEL_QE_VENDOR_ID, Quote, QuoteSignature, TeeType
from kubenclave.sgx.report import ReportBody

_SEAL: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A quote that is genuine and current. Only ``verify`` makes one.

    ``overdue`` lists the collateral that had expired and was accepted within the grace period.
    """

    quote: Quote
    evaluation: TcbEvaluation
    chain: PckChain
    collateral: TrustedCollateral
    collateral_digest: bytes
    anchor: TrustAnchor
    at: dt.datetime
    dated: tuple[Dated, ...]
    overdue: tuple[Dated, ...]
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only kubenclave.dcap.verify.verify makes a Verified")


class _Pem(NamedTuple):
    """A chain, and the SHA-256 of its text."""

    text: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class _Voucher:
    """Everything that vouches for an attestation key, checked: all of the recipe but 5, 8, 12 and 13 for TDX."""

    attestation_key: ec.EllipticCurvePublicKey
    chain: PckChain
    collateral: TrustedCollateral
    qe: TcbLevel
    sgx: TcbEvaluation | None
    dated: tuple[Dated, ...]
    current_from: dt.datetime
    current_to: dt.datetime


def verify(
    data: bytes,
    collateral: Collateral,
    *,
    at: dt.datetime,
    anchor: TrustAnchor,
    cache: Cache,
    pck_chain: bytes | None = None,
    grace: dt.timedelta = dt.timedelta(0),
) -> Verified:
    """Check a quote and its collateral under a root at a time (all three given, none looked up).

    ``pck_chain`` (PEM) is for quotes that carry none, else it is left unread; ``grace`` is how long collateral may be
    overdue.
    Raises FormatError when the bytes are not a quote, TrustError when the answer is no.
    """
    if at.utcoffset() is None:
        raise UsageError("a time without a zone", code="usage.naive-time", field="at", expected="an aware datetime")
    quote = Quote.parse(data)
    _check_vendor(quote)
    chain = _chain_of(quote, pck_chain)
    voucher = cache.get_or_check(
        _voucher_key(quote, chain, collateral, anchor), lambda: _vouch(quote, chain, collateral, anchor, cache)
    )
    overdue: tuple[Dated, ...] = ()
    if not voucher.current_from <= at <= voucher.current_to:
        overdue = _judge_dates(voucher.dated, at, grace)
    verify_raw_signature(
        voucher.attestation_key, quote.signature.signature, quote.signed, "the quote", "quote.signature"
    )
    return Verified(
        quote=quote,
        evaluation=voucher.sgx or _evaluate_tdx(quote, voucher),
        chain=voucher.chain,
        collateral=voucher.collateral,
        collateral_digest=collateral.digest,
        anchor=anchor,
        at=at,
        dated=voucher.dated,
        overdue=overdue,
        seal=_SEAL,
    )


def _check_vendor(quote: Quote) -> None:
    if quote.header.qe_vendor_id != INTEL_QE_VENDOR_ID:
        raise TrustError(
            "quoting enclave of an unknown vendor",
            code="quote.vendor",
            field="qe_vendor_id",
            expected=INTEL_QE_VENDOR_ID.hex(),
            found=quote.header.qe_vendor_id.hex(),
        )


def _chain_of(quote: Quote, pck_chain: bytes | None) -> _Pem:
    """Return the PCK chain: the quote's own, else the one given. One beside the quote's own is left unread."""
    certification = quote.signature.certification_data
    chain = certification.pck_chain or pck_chain
    if chain is None:
        raise TrustError(
            "the quote carries no PCK certificate",
            code="pck.missing",
            field="certification data type",
            expected="5 (PCK certificate chain)",
            found=f"{certification.kind} ({certification.kind.name})",
            hint="fetch the PCK certificate of that platform and pass it beside the quote (--pck-chain)",
        )
    return _Pem(chain, hashlib.sha256(chain).digest())


def _voucher_key(quote: Quote, chain: _Pem, collateral: Collateral, anchor: TrustAnchor) -> bytes:
    """Digest of every byte that ``_vouch`` looks at; the one part of variable size comes last."""
    signature = quote.signature
    return hashlib.sha256(
        b"".join(
            (
                anchor.identity,
                collateral.digest,
                quote.header.tee_type.to_bytes(4, "big"),
                signature.attestation_key,
                signature.qe_report,
                signature.qe_report_signature,
                chain.digest,
                signature.qe_auth_data,
            )
        )
    ).digest()


def _vouch(quote: Quote, pem: _Pem, collateral: Collateral, anchor: TrustAnchor, cache: Cache) -> _Voucher:
    signature = quote.signature
    # 2
    chain = cache.get_or_check(("PCK chain", pem.digest, anchor.identity), lambda: _pck_chain(pem.text, anchor, cache))
    # 3, 4, 6
    trusted = cache.get_or_check(
        ("collateral", collateral.digest, anchor.identity), lambda: verify_collateral(collateral, anchor, cache)
    )
    _check_revocation(chain, trusted)
    # 7
    _check_binding(quote.header.tee_type, chain, trusted)
    # 9, 10
    qe_report = _check_qe_report(signature, chain)
    # 11, 13
    qe = evaluate_qe(qe_report, trusted.qe_identity)
    sgx = evaluate_sgx(chain.extension, trusted.tcb_info, qe) if quote.header.tee_type is TeeType.SGX else None
    root = Dated("root certificate", anchor.not_before, anchor.not_after)
    dated = (root, chain.ca.dated, chain.leaf.dated, *trusted.dated)
    return _Voucher(
        _attestation_key(signature.attestation_key),
        chain,
        trusted,
        qe,
        sgx,
        dated,
        max(each.not_before for each in dated),
        min(each.not_after for each in dated),
    )


def _check_revocation(chain: PckChain, trusted: TrustedCollateral) -> None:
    """Refuse a PCK CA or leaf that is revoked, and a list that is not of the leaf's own CA."""
    trusted.root_crl.refuse(chain.ca, "pck-ca.revoked")
    if trusted.pck_ca.key != chain.ca.key or trusted.pck_ca.subject != chain.ca.subject:
        raise TrustError(
            "PCK CRL comes from another CA than the PCK certificate",
            code="crl.other-ca",
            expected=chain.ca.raw.subject.rfc4514_string(),
            found=trusted.pck_ca.raw.subject.rfc4514_string(),
        )
    trusted.pck_crl.refuse(chain.leaf, "pck.revoked")


def _check_qe_report(signature: QuoteSignature, chain: PckChain) -> ReportBody:
    """Return what the platform says of its quoting enclave, which speaks of this very attestation key."""
    verify_raw_signature(
        chain.leaf.key, signature.qe_report_signature, signature.qe_report, "the QE report", "qe-report.signature"
    )
    qe_report = ReportBody.parse(signature.qe_report)
    if hashlib.sha256(signature.attestation_key + signature.qe_auth_data).digest() != qe_report.report_data[:32]:
        raise TrustError("the QE report speaks of another attestation key", code="qe-report.key-binding")
    return qe_report


def _pck_chain(pem: bytes, anchor: TrustAnchor, cache: Cache) -> PckChain:
    try:
        return verify_pck_chain(pem, anchor, cache)
    except FormatError as error:  # signed by a CA and yet not readable: a refusal, not a question of format
        raise TrustError(
            error.message, code=error.code, field=error.field, expected=error.expected, found=error.found
        ) from error


def _check_binding(tee_type: TeeType, chain: PckChain, trusted: TrustedCollateral) -> None:
    """Refuse documents that are genuine but speak of something else."""
    extension, tcb_info = chain.extension, trusted.tcb_info
    rules = (
        ("TEE of the QE identity", tee_type.name, trusted.qe_identity.tee.name, "qe-identity.mismatch"),
        ("TEE of TCB info", tee_type.name, tcb_info.tee.name, "tcb-info.mismatch"),
        ("FMSPC", extension.fmspc.hex(), tcb_info.fmspc.hex(), "tcb-info.mismatch"),
        ("PCE-ID", extension.pce_id.hex(), tcb_info.pce_id.hex(), "tcb-info.mismatch"),
    )
    for name, expected, found, code in rules:
        if expected != found:
            raise TrustError(
                "collateral speaks of another platform", code=code, field=name, expected=expected, found=found
            )


def _attestation_key(point: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError:
        raise TrustError("the attestation key is no point of P-256", code="quote.attestation-key") from None


def _evaluate_tdx(quote: Quote, voucher: _Voucher) -> TcbEvaluation:
    body = quote.body
    assert not isinstance(body, ReportBody)  # the parser ties TEE type and body type
    return evaluate_tdx(body, voucher.chain.extension, voucher.collateral.tcb_info, voucher.qe)


def _judge_dates(dated: tuple[Dated, ...], at: dt.datetime, grace: dt.timedelta) -> tuple[Dated, ...]:
    """Refuse what is not valid at that time; return what is overdue within the grace period."""
    overdue = []
    for each in dated:
        if at < each.not_before:
            raise _untimely(each, at, "not valid yet", "not-yet-valid")
        if at > each.not_after:
            if not each.is_collateral or at - each.not_after > grace:
                raise _untimely(each, at, "expired", "expired")
            overdue.append(each)
    return tuple(overdue)


def _untimely(each: Dated, at: dt.datetime, how: str, code: str) -> TrustError:
    return TrustError(
        f"{each.what} is {how}",
        code=f"{'collateral' if each.is_collateral else 'certificate'}.{code}",
        field=each.what,
        expected=f"{zulu(each.not_before)} to {zulu(each.not_after)}",
        found=zulu(at),
        hint="fetch current collateral" if code == "expired" else "check the time given",
    )
