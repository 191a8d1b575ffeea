# SPDX-License-Identifier: Apache-2.0
"""Policies tried on evidence that was kept: what one would say, and where two of them differ.

Each piece is judged as of the time it was judged first, with the collateral of that time, so that what differs is the
policy's doing and not the calendar's. Of runtime data only a digest is kept: rules about its content find no claim.
"""

import datetime as dt
import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kubenclave.dcap.azurepolicy import AzurePolicy
from kubenclave.dcap.azurepolicy.appraise import try_on
from kubenclave.dcap.describe import zulu
from kubenclave.dcap.judgement import Freshness, Judgement, PolicyReference
from kubenclave.dcap.policy import Policy
from kubenclave.dcap.verdict import verify_quote
from kubenclave.errors import Finding, KubenclaveError, PolicyError
from kubenclave.services.attestation.evidence_store import StoredEvidence

AnyPolicy = Policy | AzurePolicy
_VERSION: Final = 0  # of a policy that is only tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the service decides beside the policy, as ``verify_quote`` takes it; ``root`` in DER, None for Intel's."""

    root: bytes | None = None
    minimum_tcb_evaluation_data_number: int = 0
    dangerously_allow_debug: bool = False
    dangerously_accept_expired_collateral: dt.timedelta = dt.timedelta(0)


class Change(enum.StrEnum):
    """What the second policy would change for one piece of evidence."""

    SAME = "same"
    NEWLY_ACCEPTED = "newly-accepted"
    NEWLY_REFUSED = "newly-refused"
    OTHER_CLAIMS = "other-claims"  # accepted by both, with other issued claims
    OTHER_REASONS = "other-reasons"  # refused by both


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy says of one piece: ``reasons`` are empty where it accepts, ``issued`` where it refuses."""

    accepted: bool
    reasons: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    issued: dict[str, Any] = field(default_factory=dict)
    trace: tuple[str, ...] = ()
    relaxations: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "accepted": self.accepted,
            "reasons": list(self.reasons),
            "codes": list(self.codes),
            "issued": self.issued,
            "trace": list(self.trace),
            "relaxations": list(self.relaxations),
        }


@dataclass(frozen=True, slots=True)
class Trial:
    """A policy tried on pieces of evidence, in their order."""

    evidence: Sequence[StoredEvidence]
    outcomes: Sequence[Outcome]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values: counts, the codes of refusals by frequency, and each piece."""
        refused = Counter(code for outcome in self.outcomes for code in outcome.codes)
        accepted = sum(outcome.accepted for outcome in self.outcomes)
        return {
            "evidence": len(self.outcomes),
            "accepted": accepted,
            "refused": len(self.outcomes) - accepted,
            "codes": dict(refused.most_common()),
            "pieces": [
                {**_piece(evidence), **outcome.as_dict()}
                for evidence, outcome in zip(self.evidence, self.outcomes, strict=True)
            ],
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """Two policies tried on the same pieces: ``first`` is what counts today, ``second`` what is proposed."""

    first: Trial
    second: Trial

    @property
    def changes(self) -> tuple[Change, ...]:
        """What changes, piece by piece."""
        return tuple(_change(*pair) for pair in zip(self.first.outcomes, self.second.outcomes, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """As JSON values: how many pieces change in which way, and each piece under both."""
        pieces = zip(self.first.evidence, self.changes, self.first.outcomes, self.second.outcomes, strict=True)
        counts = Counter(self.changes)
        return {
            "evidence": len(self.changes),
            "changes": {change.value: counts[change] for change in Change},
            "pieces": [
                {**_piece(evidence), "change": change.value, "first": one.as_dict(), "second": other.as_dict()}
                for evidence, change, one, other in pieces
            ],
        }


def dry_run(policy: AnyPolicy, evidence: Iterable[StoredEvidence], terms: Terms = Terms()) -> Trial:
    """Say of each piece what the policy would have said of it when it was judged."""
    pieces = tuple(evidence)
    return Trial(pieces, tuple(try_policy(policy, piece, terms) for piece in pieces))


def diff(first: AnyPolicy, second: AnyPolicy, evidence: Iterable[StoredEvidence], terms: Terms = Terms()) -> Difference:
    """Try two policies on the same pieces."""
    pieces = tuple(evidence)
    return Difference(dry_run(first, pieces, terms), dry_run(second, pieces, terms))


def try_policy(policy: AnyPolicy, evidence: StoredEvidence, terms: Terms) -> Outcome:
    """Judge one piece; a refusal of whatever kind is an outcome."""
    try:
        judgement = verified(policy, evidence, terms)
    except PolicyError as error:
        return _refused(error.findings)
    except KubenclaveError as error:
        return Outcome(accepted=False, reasons=(str(error),), codes=(error.code,))
    if isinstance(policy, Policy):
        return Outcome(accepted=True, relaxations=judgement.relaxations)
    evaluation = try_on(policy, judgement)
    if evaluation.refusal is not None:
        return _refused([evaluation.refusal], evaluation.trace)
    return Outcome(
        accepted=True,
        issued=dict(evaluation.issued),
        trace=evaluation.trace,
        relaxations=(*judgement.relaxations, *evaluation.relaxations),
    )


def _refused(findings: Sequence[Finding], trace: tuple[str, ...] = ()) -> Outcome:
    codes = tuple(finding.code for finding in findings)
    return Outcome(accepted=False, reasons=tuple(map(str, findings)), codes=codes, trace=trace)


def verified(policy: AnyPolicy, evidence: StoredEvidence, terms: Terms) -> Judgement:
    """Verify one piece as of its time, under a typed policy too; one in Azure's grammar is asked about the result.

    Raises FormatError and VerificationError as ``verify_quote`` does.
    """
    typed = policy if isinstance(policy, Policy) else None
    verdict = verify_quote(
        evidence.quote,
        evidence.collateral,
        at=evidence.at,
        root=terms.root,
        pck_chain=evidence.pck_chain,
        policy=typed,
        minimum_tcb_evaluation_data_number=terms.minimum_tcb_evaluation_data_number,
        dangerously_allow_debug=terms.dangerously_allow_debug,
        dangerously_accept_expired_collateral=terms.dangerously_accept_expired_collateral,
    )
    return Judgement(
        verdict=verdict,
        collateral=evidence.collateral,
        at=evidence.at,
        evidence_digest=evidence.digest,
        policy=_reference(policy, evidence.tee_type),
        issued={},
        relaxations=verdict.relaxations,
        freshness=Freshness.NONE,
        draft=True,
    )


def _reference(policy: AnyPolicy, tee_type: str) -> PolicyReference | None:
    """Return what claims say of a policy in Azure's grammar; a typed one has spoken by then."""
    return PolicyReference(tee_type, "azure", _VERSION, policy.digest) if isinstance(policy, AzurePolicy) else None


def _piece(evidence: StoredEvidence) -> dict[str, Any]:
    return {
        "digest": evidence.digest.hex(),
        "tee_type": evidence.tee_type,
        "at": zulu(evidence.at),
        "collateral": evidence.collateral.digest.hex(),
    }


def _change(first: Outcome, second: Outcome) -> Change:
    if first.accepted != second.accepted:
        return Change.NEWLY_ACCEPTED if second.accepted else Change.NEWLY_REFUSED
    if first.accepted:
        return Change.SAME if first.issued == second.issued else Change.OTHER_CLAIMS
    return Change.SAME if first.reasons == second.reasons else Change.OTHER_REASONS
