# SPDX-License-Identifier: Apache-2.0
"""What lets through more than the default rules do: as a policy allows it, and as a verdict had need of it.

Both lists name the same things, so that nothing counts as relaxed in a verdict that did not in the policy.
"""

from kubenclave.dcap.describe import zulu
from kubenclave.dcap.policy import PRIVILEGED_FLAGS, Policy
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.verify import Verified
from kubenclave.sgx.quote import Body
from kubenclave.sgx.report import ReportBody


def relaxations_of(policy: Policy) -> tuple[str, ...]:
    """Return what a policy lets through beyond the default, each beginning with the member that says so."""
    named = []
    if policy.dangerously_allow_debug:
        named.append("dangerously_allow_debug: debug enclaves are let through: their host can read their memory")
    if policy.dangerously_allow_provision_key:
        named.append("dangerously_allow_provision_key: enclaves with platform-identifying keys are let through")
    if days := policy.dangerously_accept_expired_collateral_days:
        named.append(f"dangerously_accept_expired_collateral_days: collateral counts for {days} days after its end")
    named += [
        f"tcb_statuses: platforms that are {status.value} are let through"
        for status in policy.tcb_statuses
        if status is not TcbStatus.UP_TO_DATE
    ]
    return tuple(named)


def relaxations_used(verified: Verified, policy: Policy | None, minimum: int) -> tuple[str, ...]:
    """Return, of a quote that was accepted, what the caller or the policy decided otherwise than the default rules.

    ``minimum`` is the TCB evaluation data number the caller asked for, 0 for none.
    """
    body, anchor = verified.quote.body, verified.anchor
    named = [] if anchor.is_intel else [f"root: {anchor.digest} instead of Intel's"]
    if body.debug:
        named.append("dangerously_allow_debug: the host can read this enclave's memory")
    named += [
        f"dangerously_accept_expired_collateral: {each.what} ended {zulu(each.not_after)}" for each in verified.overdue
    ]
    if policy is not None:
        named += let_through(verified)
    if minimum:
        named.append(f"minimum_tcb_evaluation_data_number: {minimum} in place of none")
    return tuple(named)


def let_through(verified: Verified, *, status_member: str = "tcb_statuses") -> tuple[str, ...]:
    """Return what a policy, of whatever language, let through that a policy does not by itself.

    ``status_member`` is what in that policy speaks of the TCB status.
    """
    status, named = verified.evaluation.status, []
    if is_privileged(verified.quote.body):
        named.append("dangerously_allow_provision_key: the enclave may have keys that identify the platform")
    if status is not TcbStatus.UP_TO_DATE:
        named.append(f"{status_member}: {status.value} accepted by the policy")
    return tuple(named)


def is_privileged(body: Body) -> bool:
    """Tell whether an enclave may have keys that identify its platform, or launch others; TDs never have."""
    return isinstance(body, ReportBody) and bool(body.attributes.flags & PRIVILEGED_FLAGS)
