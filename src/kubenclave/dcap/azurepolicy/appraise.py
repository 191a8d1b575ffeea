# SPDX-License-Identifier: Apache-2.0
"""An Azure policy over a judgement: the claims it sees, and the properties that are about the verification itself.

Azure holds evidence to a security baseline before any rule is asked. Here the baseline is that the platform has all
updates the collateral speaks of; a policy that lets others through says so in a property, and the result shows it.
"""

import dataclasses
import re
from typing import Any, Final

from kubenclave.dcap.azurepolicy.claims import claims_of
from kubenclave.dcap.azurepolicy.policy import AzurePolicy, Evaluation
from kubenclave.dcap.judgement import Judgement
from kubenclave.dcap.relaxations import let_through
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.token.azure import azure_claims
from kubenclave.errors import Finding

TCB_IDENTIFIER: Final = "x-ms-sgx-tcbidentifier"
ACCEPTED_STATUS: Final = "dangerously_accept_tcb_status"
PROPERTIES: Final = (TCB_IDENTIFIER, ACCEPTED_STATUS)
_DEFAULT: Final = "azuredefault"
_GENERATION: Final = re.compile(r"[0-9]{1,9}")
_UPDATED: Final = frozenset(
    {
        TcbStatus.UP_TO_DATE,
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    }
)


def appraise(policy: AzurePolicy, judgement: Judgement) -> Evaluation:
    """Return what a policy says of verified evidence when it permits.

    Raises PolicyError (``azure-policy.denied``, ``.no-permit``, ``.evaluation``, ``.tcb-identifier``, ``.tcb-status``)
    when it does not.
    """
    evaluation = try_on(policy, judgement)
    evaluation.check()
    return evaluation


def try_on(policy: AzurePolicy, judgement: Judgement) -> Evaluation:
    """Return what a policy says of verified evidence, be it a refusal: for trials, where the trace is wanted too.

    The property ``x-ms-sgx-tcbidentifier`` names the oldest generation of collateral (TCB evaluation data number) that
    the policy accepts; ``azuredefault`` leaves that to the service. ``dangerously_accept_tcb_status`` names a status of
    a platform without all updates that is accepted nevertheless.
    """
    evaluation = policy.evaluate(claims_of(azure_claims(judgement)))
    if not evaluation.permitted:
        return evaluation
    status = judgement.verdict.tcb_status
    finding = _generation(evaluation, judgement.verdict.tcb_evaluation_data_number) or _status(evaluation, status)
    if finding is not None:
        return dataclasses.replace(evaluation, refusal=finding, issued={}, properties={})
    member = "tcb_statuses" if status in _UPDATED else ACCEPTED_STATUS
    return dataclasses.replace(evaluation, relaxations=let_through(judgement.verdict.verified, status_member=member))


def _generation(evaluation: Evaluation, found: int) -> Finding | None:
    wanted = evaluation.properties.get(TCB_IDENTIFIER, _DEFAULT)
    if wanted == _DEFAULT or _is_reached(wanted, found):
        return None
    expected = f"collateral of TCB evaluation data number {str(wanted)[:40]} or more"
    return Finding("azure-policy.tcb-identifier", TCB_IDENTIFIER, expected, str(found))


def _is_reached(wanted: Any, found: int) -> bool:
    return isinstance(wanted, str | int) and bool(_GENERATION.fullmatch(str(wanted))) and int(wanted) <= found


def _status(evaluation: Evaluation, status: TcbStatus) -> Finding | None:
    named = evaluation.properties.get(ACCEPTED_STATUS, ())
    if status in _UPDATED or status.value in (named if isinstance(named, list) else [named]):
        return None
    return Finding(
        "azure-policy.tcb-status",
        "TCB status",
        "a platform with all updates",
        status.value,
        f'update the platform, or weigh it: => issueproperty(type="{ACCEPTED_STATUS}", value="{status.value}");',
    )
