# SPDX-License-Identifier: Apache-2.0
"""Judgements on quotes put together by hand, to make tokens of."""

import hashlib
from dataclasses import replace
from typing import Any

from kubenclave.dcap.judgement import Freshness, Judgement, PolicyReference
from kubenclave.dcap.policy import Policy
from kubenclave.dcap.verdict import verify_quote
from tests import evidence

AZURE_POLICY = PolicyReference("SgxEnclave", "azure", 3, hashlib.sha256(b"azure policy").digest())
TYPED_POLICY = PolicyReference("billing", "kubenclave", 1, hashlib.sha256(b"typed policy").digest())
NONCE = "a nonce of the client"


def judgement(
    given: evidence.Evidence | None = None, *, policy: Policy | None = None, debug: bool = False, **changes: Any
) -> Judgement:
    """Verify evidence (a good quote by default) and return the judgement on it."""
    given = given or evidence.make()
    verdict = verify_quote(
        given.quote,
        given.collateral,
        at=evidence.NOW,
        root=given.root,
        pck_chain=given.chain,
        policy=policy,
        dangerously_allow_debug=debug,
    )
    plain = Judgement(
        verdict=verdict,
        collateral=given.collateral,
        at=evidence.NOW,
        evidence_digest=hashlib.sha256(given.quote).digest(),
        policy=AZURE_POLICY,
        issued={},
        relaxations=verdict.relaxations,
        freshness=Freshness.NONE,
    )
    return replace(plain, **changes)
