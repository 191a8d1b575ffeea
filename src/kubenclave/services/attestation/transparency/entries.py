# SPDX-License-Identifier: Apache-2.0
"""What the log holds of a decision: enough to compare it with a token later, nothing that identifies a machine.

There is no quote in it, no report data, no PPID and no secret; evidence is named by its digest. Refusals by policy of
genuine evidence are logged as well. What is not genuine is not: anybody could make any amount of it.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from kubenclave.dcap.describe import zulu
from kubenclave.dcap.judgement import Freshness, Judgement, PolicyReference
from kubenclave.errors import PolicyError

VERSION: Final = 1
_MAX_NAME: Final = 200
_MAX_CODES: Final = 50


def accepted_entry(judgement: Judgement, *, jti: str, released: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the entry of evidence that was accepted, under the id of the token made of it.

    ``released`` says which secret went to which key, where one did.
    """
    verdict = judgement.verdict
    entry = {
        **_common(jti, judgement.at, judgement.evidence_digest, judgement.policy, simulated=verdict.simulated),
        "verdict": "accepted",
        "collateral": verdict.verified.collateral_digest.hex(),
        "tcb_status": verdict.tcb_status.value,
        "tcb_evaluation_data_number": verdict.tcb_evaluation_data_number,
        "relaxations": list(judgement.relaxations),
        "fresh": judgement.freshness is Freshness.CHALLENGE,
        "draft": judgement.draft,
    }
    return entry if released is None else {**entry, "released": dict(released)}


def refused_entry(
    error: PolicyError,
    *,
    jti: str,
    at: dt.datetime,
    evidence_digest: bytes,
    policy: PolicyReference | None,
    simulated: bool,
    wanted: str | None = None,
) -> dict[str, Any]:
    """Return the entry of genuine evidence that a policy did not accept, with the codes of what spoke against it.

    ``wanted`` is the name of the secret that was asked for, where one was.
    """
    codes = list(dict.fromkeys(finding.code for finding in error.findings))[:_MAX_CODES]
    entry = {**_common(jti, at, evidence_digest, policy, simulated=simulated), "verdict": "refused", "codes": codes}
    return entry if wanted is None else {**entry, "wanted": wanted}


def _common(
    jti: str, at: dt.datetime, evidence_digest: bytes, policy: PolicyReference | None, *, simulated: bool
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "jti": jti,
        "at": zulu(at),
        "evidence": evidence_digest.hex(),
        "policy": None if policy is None else {**policy.as_dict(), "name": policy.name[:_MAX_NAME]},
        "simulated": simulated,
    }
