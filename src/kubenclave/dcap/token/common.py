# SPDX-License-Identifier: Apache-2.0
"""What every token says in the same words, whatever its dialect: the object ``kubenclave`` (docs/tokens.md)."""

from typing import Any, Final, Protocol

from kubenclave.dcap.describe import zulu
from kubenclave.dcap.judgement import Freshness, Judgement

NAMESPACE: Final = "kubenclave"


class LogReceipt(Protocol):
    """Where the log of verdicts keeps this one: place and leaf hash (32 bytes), and the size of the tree with it."""

    @property
    def index(self) -> int:
        """Place in the log, from 0."""
        ...

    @property
    def leaf_hash(self) -> bytes:
        """RFC 9162 leaf hash."""
        ...

    @property
    def tree_size(self) -> int:
        """Entries in the tree that holds it."""
        ...


def service_claims(judgement: Judgement, log: LogReceipt | None) -> dict[str, Any]:
    """Return everything a relying party may want to audit: flags, TCB, relaxations, policy, collateral, log entry.

    Digests are in lower-case hex, times in RFC 3339. Nothing in here identifies the platform.
    """
    verdict = judgement.verdict
    claims: dict[str, Any] = {
        "simulated": verdict.simulated,
        "debug": verdict.quote.body.debug,
        "appraised": judgement.appraised,
        "draft": judgement.draft,
        "fresh": judgement.freshness is not Freshness.NONE,
        "freshness": judgement.freshness.value,
        "verified_at": zulu(judgement.at),
        "tcb_status": verdict.tcb_status.value,
        "tcb_date": zulu(verdict.tcb_date),
        "tcb_evaluation_data_number": verdict.tcb_evaluation_data_number,
        "advisories": list(verdict.advisories),
        "relaxations": list(judgement.relaxations),
        "root": verdict.verified.anchor.digest,
        "evidence": judgement.evidence_digest.hex(),
        "policy": None if judgement.policy is None else judgement.policy.as_dict(),
        "collateral": _collateral(judgement),
    }
    if log is not None:
        claims["log"] = {"index": log.index, "leaf": log.leaf_hash.hex(), "tree_size": log.tree_size}
    return {NAMESPACE: claims}


def _collateral(judgement: Judgement) -> dict[str, Any]:
    """Return what the verdict rests on: digest of all, and from when to when each dated part is good."""
    verdict = judgement.verdict
    return {
        "digest": judgement.collateral.digest.hex(),
        "expired": verdict.collateral_expired,
        "earliest_expiration": zulu(verdict.earliest_expiration),
        "dates": {what: [zulu(start), zulu(end)] for what, (start, end) in verdict.dates.items()},
    }
