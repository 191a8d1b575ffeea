# SPDX-License-Identifier: Apache-2.0
"""Judgements on quotes put together by hand, to make tokens of."""

import datetime as dt
import hashlib
from dataclasses import replace
from typing import Any

from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.judgement import Freshness, Judgement, PolicyReference
from kubenclave.dcap.policy import Policy
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.verdict import verify_quote
from tests import evidence
from vectors.reader import read

AZURE_POLICY = PolicyReference("SgxEnclave", "azure", 3, hashlib.sha256(b"azure policy").digest())
TYPED_POLICY = PolicyReference("billing", "kubenclave", 1, hashlib.sha256(b"typed policy").digest())
NONCE = "a nonce of the client"


def judgement(
    given: evidence.Evidence | None = None,
    *,
    policy: Policy | None = None,
    policy_reference: PolicyReference | None = AZURE_POLICY,
    debug: bool = False,
    at: dt.datetime = evidence.NOW,
    grace: dt.timedelta = dt.timedelta(0),
    **changes: Any,
) -> Judgement:
    """Verify evidence (a good quote by default) and return the judgement on it."""
    given = given or evidence.make()
    verdict = verify_quote(
        given.quote,
        given.collateral,
        at=at,
        root=given.root,
        pck_chain=given.chain,
        policy=policy,
        dangerously_allow_debug=debug,
        dangerously_accept_expired_collateral=grace,
    )
    plain = Judgement(
        verdict=verdict,
        collateral=given.collateral,
        at=at,
        evidence_digest=hashlib.sha256(given.quote).digest(),
        policy=policy_reference,
        issued={},
        relaxations=verdict.relaxations,
        freshness=Freshness.NONE,
    )
    return replace(plain, **changes)


def tdx(**changes: Any) -> Judgement:
    """Return the judgement on a good TDX quote of version 5, from the vectors."""
    vector = next(each for each in read() if each.base == "tdx-v5" and each.expect == TcbStatus.UP_TO_DATE)
    assert vector.root is not None
    collateral = Collateral.from_json(vector.collateral)
    given = evidence.Evidence(vector.quote, collateral, vector.root, vector.pck_chain or b"")
    return judgement(given, at=vector.at, **changes)
