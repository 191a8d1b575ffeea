# SPDX-License-Identifier: Apache-2.0
"""Appraisal: a genuine quote against what was wanted (step 14). Every rule is looked at, all findings come at once."""

import datetime as dt
import hmac
from typing import Final

from kubenclave.dcap.policy import EnclaveRule, MaskedBits, Policy
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.verify import Verified
from kubenclave.errors import Finding
from kubenclave.sgx.report import ReportBody

ANEW: Final = "fetch collateral anew"


def default_findings(verified: Verified, *, allow_debug: bool = False) -> list[Finding]:
    """Return what speaks against any quote, whoever asks: debug, and a revoked TCB.

    Every other status is the relying party's to weigh.
    """
    findings = []
    if verified.quote.body.debug and not allow_debug:
        hint = "build it for production; for tests there is dangerously_allow_debug"
        findings.append(Finding("policy.debug", "DEBUG attribute", "clear", "set", hint))
    if verified.evaluation.status is TcbStatus.REVOKED:
        hint = "update the platform: no policy can accept this"
        findings.append(Finding("tcb.revoked", "TCB status", "not Revoked", "Revoked", hint))
    return findings


def policy_findings(verified: Verified, policy: Policy, report_data: bytes | None = None) -> list[Finding]:
    """Return everything about a quote that a policy does not accept, beyond the default rules.

    ``report_data`` (64 bytes) is what this one challenge expects, in place of the policy's own.
    """
    findings = _identity_findings(verified, policy) + _tcb_findings(verified, policy)
    expected = report_data if report_data is not None else policy.expected_report_data
    return findings + report_data_findings(verified, expected)


def report_data_findings(verified: Verified, expected: bytes | None) -> list[Finding]:
    """Compare report data whole, in constant time; nothing is expected where ``expected`` is None."""
    found = verified.quote.body.report_data
    if expected is None or hmac.compare_digest(expected, found):
        return []
    hint = "ask for a new quote over the data of this challenge"
    return [Finding("policy.report-data", "REPORTDATA", expected.hex(), found.hex(), hint)]


def _identity_findings(verified: Verified, policy: Policy) -> list[Finding]:
    body = verified.quote.body
    findings = []
    mismatches = [_rule_mismatches(rule, body) for rule in policy.enclaves]
    if all(mismatches):
        closest = min(mismatches, key=len)  # says more than every rule's every difference
        findings += closest
    if not isinstance(body, ReportBody):
        if policy.attributes is not None or policy.misc_select is not None:
            findings.append(Finding("policy.tee", "TEE", "SGX, whose attributes the policy names", "TDX"))
        return findings
    forbidden = body.attributes.flags & policy.forbidden_flags
    if forbidden:
        findings.append(
            Finding("policy.forbidden-flags", "ATTRIBUTES.FLAGS", f"{forbidden:#x} clear", hex(body.attributes.flags))
        )
    for code, name, bits, value in (
        ("policy.attributes", "ATTRIBUTES", policy.attributes, body.attributes.build()),
        ("policy.misc-select", "MISCSELECT", policy.misc_select, body.misc_select.to_bytes(4, "little")),
    ):
        if bits is not None and _masked(value, bits) != bits.value:
            findings.append(Finding(code, f"{name} & {bits.mask.hex()}", bits.value.hex(), value.hex()))
    return findings


def _rule_mismatches(rule: EnclaveRule, body: object) -> list[Finding]:
    where = f" of {rule.name}" if rule.name else ""
    wanted: tuple[tuple[str, bytes | None], ...] = (
        ("mr_enclave", rule.mr_enclave),
        ("mr_signer", rule.mr_signer),
        ("mr_td", rule.mr_td),
    )
    findings = []
    for name, expected in wanted:
        found = getattr(body, name, None)
        if expected is not None and expected != found:
            shown = found.hex() if isinstance(found, bytes) else "another kind of TEE"
            findings.append(
                Finding(
                    f"policy.{name.replace('_', '-')}", f"{name.upper().replace('_', '')}{where}", expected.hex(), shown
                )
            )
    if not isinstance(body, ReportBody):
        return findings
    if rule.isv_prod_id is not None and body.isv_prod_id != rule.isv_prod_id:
        findings.append(
            Finding("policy.isv-prod-id", f"ISVPRODID{where}", str(rule.isv_prod_id), str(body.isv_prod_id))
        )
    if rule.min_isv_svn is not None and body.isv_svn < rule.min_isv_svn:
        findings.append(Finding("policy.isv-svn", f"ISVSVN{where}", f"{rule.min_isv_svn} or more", str(body.isv_svn)))
    return findings


def _tcb_findings(verified: Verified, policy: Policy) -> list[Finding]:
    findings = []
    status = verified.evaluation.status
    if status not in policy.tcb_statuses and status is not TcbStatus.REVOKED:
        hint = "update the platform, or weigh the status: tcb_statuses says which ones the policy accepts"
        findings.append(Finding("policy.tcb-status", "TCB status", " or ".join(policy.tcb_statuses), status, hint))
    applying = [each for level in verified.evaluation.levels for each in level.advisories]
    unwanted = {each.casefold() for each in policy.refused_advisories}
    refused = sorted({each for each in applying if each.casefold() in unwanted})
    if refused:
        hint = "update the platform, or weigh the advisory again"
        listed = ", ".join(refused)
        findings.append(Finding("policy.advisory", "advisories", "none refused by the policy", listed, hint))
    collateral = verified.collateral
    number = collateral.tcb_evaluation_data_number
    if number < policy.min_tcb_evaluation_data_number:
        wanted = f"{policy.min_tcb_evaluation_data_number} or more"
        findings.append(
            Finding("policy.tcb-evaluation-data-number", "tcbEvaluationDataNumber", wanted, str(number), ANEW)
        )
    if policy.max_collateral_age_days is not None:
        oldest = min(collateral.tcb_info.issue_date, collateral.qe_identity.issue_date)
        if verified.at - oldest > dt.timedelta(days=policy.max_collateral_age_days):
            wanted = f"{policy.max_collateral_age_days} days old at most"
            findings.append(Finding("policy.freshness", "collateral", wanted, f"issued {oldest.isoformat()}", ANEW))
    return findings


def _masked(value: bytes, bits: MaskedBits) -> bytes:
    return bytes(one & mask for one, mask in zip(value, bits.mask, strict=True))
