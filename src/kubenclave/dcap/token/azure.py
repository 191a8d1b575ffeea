# SPDX-License-Identifier: Apache-2.0
"""Claims in the dialect of Microsoft Azure Attestation (claim sets and token examples of its documentation).

Deprecated names come from two places: those of the service's own facts (``maa-ehd``, ``policy_hash``, ...) stand beside
the new ones always; those of the enclave (``is-debuggable``, ``sgx-mrenclave``, ``svn``, ``tee``, ...) only when the
policy issued them, as Azure's default policy does.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from kubenclave.dcap.azurepolicy import is_reserved
from kubenclave.dcap.collateral import Collateral, load_json
from kubenclave.dcap.judgement import DataType, HeldData, Judgement
from kubenclave.dcap.token.common import NAMESPACE, LogReceipt, service_claims
from kubenclave.dcap.verdict import QuoteVerdict
from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import AttributeFlags
from kubenclave.sgx.report import ReportBody
from kubenclave.sgx.tdreport import TdAttributes, TdReport10

SGX: Final = "sgx"
TDX: Final = "tdxvm"
VERSION: Final = "1.0"
TDX_PROFILE: Final = "https://aka.ms/maa-eat-profile-tdxvm"

CLAIMS: Final = frozenset(
    {"iss", "iat", "nbf", "exp", "jti", "nonce", "rp_data", "ver", NAMESPACE}
    | {"x-ms-ver", "x-ms-attestation-type", "x-ms-policy", "x-ms-policy-hash", "x-ms-policy-signer"}
    | {"policy_hash", "maa-policyHash", "policy_signer", "x-ms-runtime", "x-ms-inittime"}
    | {"x-ms-sgx-is-debuggable", "x-ms-sgx-mrenclave", "x-ms-sgx-mrsigner", "x-ms-sgx-product-id", "x-ms-sgx-svn"}
    | {"x-ms-sgx-report-data", "x-ms-sgx-ehd", "maa-ehd", "aas-ehd"}
    | {"x-ms-sgx-collateral", "maa-attestationcollateral", "x-ms-sgx-config-id", "x-ms-sgx-config-svn"}
    | {"x-ms-sgx-isv-extended-product-id", "x-ms-sgx-isv-family-id"}
    | {"eat_profile", "attester_tcb_status", "dbgstat", "intuse"}
)
"""What a token may say of its own, but for what begins with ``tdx_``; a policy says nothing under these names."""


def azure_claims(judgement: Judgement, *, log: LogReceipt | None = None) -> dict[str, Any]:
    """Return all claims but the issuer's own (``iss``, ``iat``, ``nbf``, ``exp``, ``jti``).

    What a policy issued stands at the top under its own name, unless that name is reserved, and all of it in
    ``x-ms-policy``. Raises FormatError when held data that is said to be JSON is none.
    """
    issued = {name: value for name, value in judgement.issued.items() if not is_reserved(name)}
    policy = {"x-ms-policy": dict(judgement.issued)} if judgement.issued else {}
    return {
        **issued,
        **evidence_claims(judgement.verdict),
        **_collateral_claims(judgement),
        **_held_claims(judgement),
        **_policy_claims(judgement),
        **policy,
        **({"nonce": judgement.nonce, "rp_data": judgement.nonce} if judgement.nonce is not None else {}),
        "x-ms-ver": VERSION,
        "ver": VERSION,
        **service_claims(judgement, log),
    }


def evidence_claims(verdict: QuoteVerdict) -> dict[str, Any]:
    """Return what the quote itself says, under Azure's names: also the incoming claims of an Azure policy."""
    body = verdict.quote.body
    return _sgx_claims(body) if isinstance(body, ReportBody) else _tdx_claims(body, verdict.tcb_status.value)


def _sgx_claims(body: ReportBody) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "x-ms-attestation-type": SGX,
        "x-ms-sgx-is-debuggable": body.debug,
        "x-ms-sgx-mrenclave": body.mr_enclave.hex(),
        "x-ms-sgx-mrsigner": body.mr_signer.hex(),
        "x-ms-sgx-product-id": body.isv_prod_id,
        "x-ms-sgx-svn": body.isv_svn,
        "x-ms-sgx-report-data": body.report_data.hex(),
    }
    if body.attributes.flags & AttributeFlags.KSS:  # without it the fields are zeros and mean nothing
        claims |= {
            "x-ms-sgx-config-id": body.config_id.hex(),
            "x-ms-sgx-config-svn": body.config_svn,
            "x-ms-sgx-isv-extended-product-id": body.isv_ext_prod_id.hex(),
            "x-ms-sgx-isv-family-id": body.isv_family_id.hex(),
        }
    return claims


def _tdx_claims(body: TdReport10, tcb_status: str) -> dict[str, Any]:
    """Return the claims of Azure's EAT profile for TDX; masks are hex of their bytes, as they lie in the report."""
    attributes = body.td_attributes
    return {
        "x-ms-attestation-type": TDX,
        "eat_profile": TDX_PROFILE,
        "intuse": "generic",
        "dbgstat": "enabled" if body.debug else "disabled",
        "attester_tcb_status": tcb_status,
        "tdx_mrseam": body.mr_seam.hex(),
        "tdx_mrsignerseam": body.mr_signer_seam.hex(),
        "tdx_mrtd": body.mr_td.hex(),
        "tdx_mrconfigid": body.mr_config_id.hex(),
        "tdx_mrowner": body.mr_owner.hex(),
        "tdx_mrownerconfig": body.mr_owner_config.hex(),
        "tdx_rtmr0": body.rtmr0.hex(),
        "tdx_rtmr1": body.rtmr1.hex(),
        "tdx_rtmr2": body.rtmr2.hex(),
        "tdx_rtmr3": body.rtmr3.hex(),
        "tdx_report_data": body.report_data.hex(),
        "tdx_seam_attributes": body.seam_attributes.hex(),
        "tdx_seamsvn": int.from_bytes(body.tee_tcb_svn[:2], "little"),
        "tdx_tee_tcb_svn": body.tee_tcb_svn.hex(),
        "tdx_xfam": body.xfam.to_bytes(8, "little").hex(),
        "tdx_td_attributes": attributes.to_bytes(8, "little").hex(),
        "tdx_td_attributes_debug": bool(attributes & TdAttributes.DEBUG),
        "tdx_td_attributes_septve_disable": bool(attributes & TdAttributes.SEPT_VE_DISABLE),
        "tdx_td_attributes_protection_keys": bool(attributes & TdAttributes.PKS),
        "tdx_td_attributes_key_locker": bool(attributes & TdAttributes.KL),
        "tdx_td_attributes_perfmon": bool(attributes & TdAttributes.PERFMON),
    }


def _collateral_claims(judgement: Judgement) -> dict[str, Any]:
    if not isinstance(judgement.verdict.quote.body, ReportBody):
        return {}  # no such claim in the profile for TDX; ``kubenclave.collateral`` has the digest
    hashes = collateral_hashes(judgement.collateral, judgement.evidence_digest)
    return {"x-ms-sgx-collateral": hashes, "maa-attestationcollateral": hashes}


def collateral_hashes(collateral: Collateral, quote_digest: bytes) -> dict[str, str]:
    """Return SHA-256 in hex of each part: chains in PEM, the CRL in DER, documents whole, as PCS answers them.

    TCB info and QE identity are signed by certificates that the root issued, so the revocation list of their
    issuers' certificates is the root's for both; ``quotehash`` is of the quote, without the header of a report of Open
    Enclave's around it.
    """
    crl = _sha256(collateral.root_ca_crl)
    return {
        "qeidcertshash": _sha256(collateral.qe_identity_issuer_chain),
        "qeidcrlhash": crl,
        "qeidhash": _sha256(_signed(b"enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature)),
        "quotehash": quote_digest.hex(),
        "tcbinfocertshash": _sha256(collateral.tcb_info_issuer_chain),
        "tcbinfocrlhash": crl,
        "tcbinfohash": _sha256(_signed(b"tcbInfo", collateral.tcb_info, collateral.tcb_info_signature)),
    }


def _held_claims(judgement: Judgement) -> dict[str, Any]:
    claims: dict[str, Any] = {}
    held = judgement.runtime_data
    if held is not None and held.kind is DataType.BINARY:
        text = base64url(held.data)
        claims |= {"x-ms-sgx-ehd": text, "maa-ehd": text, "aas-ehd": text}
    elif held is not None:
        claims["x-ms-runtime"] = _json(held, "runtime data")
    if judgement.init_data is not None and judgement.init_data.kind is DataType.JSON:
        claims["x-ms-inittime"] = _json(judgement.init_data, "init time data")
    return claims


def _policy_claims(judgement: Judgement) -> dict[str, Any]:
    """Return the policy's hash by Azure's rule; ``kubenclave.policy`` has the digest of a policy of another form."""
    policy = judgement.policy
    if policy is None or policy.format != "azure":
        return {}
    digest = base64url(policy.digest)
    claims: dict[str, Any] = {"x-ms-policy-hash": digest, "policy_hash": digest, "maa-policyHash": digest}
    if policy.signer is not None:
        claims |= {"x-ms-policy-signer": dict(policy.signer), "policy_signer": dict(policy.signer)}
    return claims


def _json(held: HeldData, what: str) -> Mapping[str, Any]:
    value = load_json(held.data, what)
    if not isinstance(value, dict):
        raise FormatError(
            f"{what} is no JSON object",
            code="token.held-data",
            expected="a JSON object",
            found=type(value).__name__,
            hint="send it as Binary",
        )
    return value


def _signed(member: bytes, text: bytes, signature: bytes) -> bytes:
    """Return a signed document as PCS answers with it."""
    return b'{"%b":%b,"signature":"%b"}' % (member, text, signature.hex().encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def base64url(data: bytes) -> str:
    """Return base64url without padding, as JOSE writes it (RFC 7515)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
