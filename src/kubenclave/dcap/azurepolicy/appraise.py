# SPDX-License-Identifier: Apache-2.0
"""An Azure policy over a judgement: the claims it sees, and the one property that is about the verification itself."""

import re
from typing import Any, Final

from kubenclave.dcap.azurepolicy.claims import claims_of
from kubenclave.dcap.azurepolicy.policy import AzurePolicy, Evaluation
from kubenclave.dcap.judgement import Judgement
from kubenclave.dcap.token.azure import azure_claims
from kubenclave.errors import Finding, PolicyError

TCB_IDENTIFIER: Final = "x-ms-sgx-tcbidentifier"
_DEFAULT: Final = "azuredefault"
_GENERATION: Final = re.compile(r"[0-9]{1,9}")


def appraise(policy: AzurePolicy, judgement: Judgement) -> Evaluation:
    """Return what a policy says of verified evidence, when it permits.

    The property ``x-ms-sgx-tcbidentifier`` names the oldest generation of collateral (TCB evaluation data number) that
    the policy accepts; ``azuredefault`` leaves that to the service. Raises PolicyError (``azure-policy.denied``,
    ``.no-permit``, ``.evaluation``, ``.tcb-identifier``).
    """
    evaluation = policy.evaluate(claims_of(azure_claims(judgement)))
    evaluation.check()
    wanted = evaluation.properties.get(TCB_IDENTIFIER, _DEFAULT)
    found = judgement.verdict.tcb_evaluation_data_number
    if wanted != _DEFAULT and not _is_met(wanted, found):
        expected = f"{_DEFAULT}, or a TCB evaluation data number that the collateral has reached: {str(wanted)[:40]}"
        raise PolicyError([Finding("azure-policy.tcb-identifier", TCB_IDENTIFIER, expected, str(found))])
    return evaluation


def _is_met(wanted: Any, found: int) -> bool:
    return isinstance(wanted, str | int) and bool(_GENERATION.fullmatch(str(wanted))) and int(wanted) <= found
