# SPDX-License-Identifier: Apache-2.0
"""Appraisal: a genuine quote against what was wanted (step 14). Every rule is looked at, all findings come at once."""

import datetime as dt
import hmac
from typing import Final

from kubenclave.dcap.describe import zulu
from kubenclave.dcap.policy import EnclaveRule, MaskedBits, Policy
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.verify import Verified
from kubenclave.errors import Finding
from kubenclave.sgx.quote import Body
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

    ``report_data`` (64 bytes) is what this one challenge expects; the policy's own has to hold as well.
    """
    findings = _identity_findings(verified, policy) + _tcb_findings(verified, policy)
    findings += report_data_findings(verified, report_data)
    if report_data is None or policy.expected_report_data != report_data:
        findings += report_data_findings(verified, policy.expected_report_data)
    return findings


def report_data_findings(verified: Verified, expected: bytes | None) -> list[Finding]:
    """Compare report data whole, in constant time; nothing is expected where ``expected`` is None."""
    found = verified.quote.body.report_data
    if expected is None or hmac.compare_digest(expected, found):
        return []
    hint = "ask for a new quote over the data of this challenge"
    return [Finding("policy.report-data", "REPORTDATA", expected.hex(), found.hex(), hint)]


def generation_findings(verified: Verified, minimum: int, code: str = "tcb.evaluation-data-number") -> list[Finding]:
    """Refuse collateral of an older generation than ``minimum``."""
    number = verified.collateral.tcb_evaluation_data_number
    if number >= minimum:
        return []
    return [Finding(code, "tcbEvaluationDataNumber", f"{minimum} or more", str(number), ANEW)]


def wanted_enclave(policy: Policy, body: Body) -> str | None:
    """Return which rule of the policy an enclave meets, the first of several: its name, or ``enclaves[0]``.

    None when it is none that the policy wants.
    """
    for number, rule in enumerate(policy.enclaves):
        if not _mismatches(rule, body):
            return rule.name or f"enclaves[{number}]"
    return None


def _identity_findings(verified: Verified, policy: Policy) -> list[Finding]:
    body = verified.quote.body
    is_sgx = isinstance(body, ReportBody)
    findings: list[Finding] = []
    if wanted_enclave(policy, body) is None:
        of_this_tee = [rule for rule in policy.enclaves if rule.is_of_sgx is is_sgx]
        mismatches = [_mismatches(rule, body) for rule in of_this_tee or policy.enclaves]
        closest: list[Finding] = min(mismatches, key=len)  # says more than every rule's every difference
        findings += closest
    if isinstance(body, ReportBody):
        forbidden, flags = body.attributes.flags & policy.forbidden_flags, body.attributes.flags
        if forbidden:
            findings.append(Finding("policy.forbidden-flags", "ATTRIBUTES.FLAGS", f"{forbidden:#x} clear", hex(flags)))
        attributes, misc_select = body.attributes.build(), body.misc_select.to_bytes(4, "little")
        findings += _bits("policy.attributes", "ATTRIBUTES", policy.attributes, attributes)
        findings += _bits("policy.misc-select", "MISCSELECT", policy.misc_select, misc_select)
    else:
        td_attributes = body.td_attributes.to_bytes(8, "little")
        findings += _bits("policy.td-attributes", "TDATTRIBUTES", policy.td_attributes, td_attributes)
    return findings + _tee_findings(policy, is_sgx=is_sgx)


def _tee_findings(policy: Policy, *, is_sgx: bool) -> list[Finding]:
    """Refuse a quote of one TEE where the policy names attributes of the other alone."""
    of_sgx = policy.attributes is not None or policy.misc_select is not None
    of_tdx = policy.td_attributes is not None
    if of_sgx is of_tdx or of_sgx is is_sgx:
        return []
    wanted, found = ("TDX", "SGX") if is_sgx else ("SGX", "TDX")
    return [Finding("policy.tee", "TEE", f"{wanted}, whose attributes the policy names", found)]


def _bits(code: str, name: str, bits: MaskedBits | None, value: bytes) -> list[Finding]:
    if bits is None or bytes(one & mask for one, mask in zip(value, bits.mask, strict=True)) == bits.value:
        return []
    return [Finding(code, f"{name} & {bits.mask.hex()}", bits.value.hex(), value.hex())]


def _mismatches(rule: EnclaveRule, body: Body) -> list[Finding]:
    """Return what an enclave lacks of a rule; the first member speaks for all where the rule is of another TEE."""
    where = f" of {rule.name}" if rule.name else ""
    if rule.is_of_sgx is not isinstance(body, ReportBody):
        pin, wanted = rule.pinned[0]
        return [Finding(pin.code, f"{pin.title}{where}", pin.said(wanted), "another kind of TEE")]
    findings = []
    for pin, wanted in rule.pinned:
        found = getattr(body, pin.field, None)
        if not pin.holds(wanted, found):
            shown = found.hex() if isinstance(found, bytes) else str(found)
            shown = "no such field: its TD report is of an older version" if found is None else shown
            findings.append(Finding(pin.code, f"{pin.title}{where}", pin.said(wanted), shown))
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
    number = policy.min_tcb_evaluation_data_number
    findings += generation_findings(verified, number, "policy.tcb-evaluation-data-number")
    collateral = verified.collateral
    if policy.max_collateral_age_days is not None:
        oldest = min(collateral.tcb_info.issue_date, collateral.qe_identity.issue_date)
        if verified.at - oldest > dt.timedelta(days=policy.max_collateral_age_days):
            wanted = f"{policy.max_collateral_age_days} days old at most"
            findings.append(Finding("policy.freshness", "collateral", wanted, f"issued {zulu(oldest)}", ANEW))
    return findings
