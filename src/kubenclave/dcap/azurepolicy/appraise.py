# SPDX-License-Identifier: Apache-2.0
"""An Azure policy over a judgement: the claims it sees, and the one property that is about the verification itself."""

import dataclasses
import re
from typing import Any, Final

from kubenclave.dcap.azurepolicy.claims import claims_of
from kubenclave.dcap.azurepolicy.policy import AzurePolicy, Evaluation
from kubenclave.dcap.judgement import Judgement
from kubenclave.dcap.token.azure import azure_claims
from kubenclave.errors import Finding

TCB_IDENTIFIER: Final = "x-ms-sgx-tcbidentifier"
_DEFAULT: Final = "azuredefault"
_GENERATION: Final = re.compile(r"[0-9]{1,9}")


def appraise(policy: AzurePolicy, judgement: Judgement) -> Evaluation:
    """Return what a policy says of verified evidence when it permits.

    Raises PolicyError (``azure-policy.denied``, ``.no-permit``, ``.evaluation``, ``.tcb-identifier``) when it does not.
    """
    evaluation = try_on(policy, judgement)
    evaluation.check()
    return evaluation


def try_on(policy: AzurePolicy, judgement: Judgement) -> Evaluation:
    """Return what a policy says of verified evidence, be it a refusal: for trials, where the trace is wanted too.

    The property ``x-ms-sgx-tcbidentifier`` names the oldest generation of collateral (TCB evaluation data number) that
    the policy accepts; ``azuredefault`` leaves that to the service. What does not meet it is refused, with code
    ``azure-policy.tcb-identifier``.
    """
    evaluation = policy.evaluate(claims_of(azure_claims(judgement)))
    wanted = evaluation.properties.get(TCB_IDENTIFIER, _DEFAULT)
    found = judgement.verdict.tcb_evaluation_data_number
    if wanted == _DEFAULT or _is_met(wanted, found):
        return evaluation
    expected = f"collateral of TCB evaluation data number {str(wanted)[:40]} or more"
    finding = Finding("azure-policy.tcb-identifier", TCB_IDENTIFIER, expected, str(found))
    return dataclasses.replace(evaluation, refusal=finding, issued={}, properties={})


def _is_met(wanted: Any, found: int) -> bool:
    return isinstance(wanted, str | int) and bool(_GENERATION.fullmatch(str(wanted))) and int(wanted) <= found
