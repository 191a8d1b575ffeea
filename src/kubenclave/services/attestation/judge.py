# SPDX-License-Identifier: Apache-2.0
"""The judge: evidence in, judgement out. The order is parse, verify, appraise, check what is bound, use the challenge.

Verification runs in the event loop: it takes 0.1 ms for an attestation key that was seen before and 1.4 ms for the
first of all, too little to be worth handing it to a thread and back. So one at a time is verified in each worker,
however many ask. Only collateral is waited for, and for that of genuine platforms alone: the PCK chain is verified
before anybody is asked, else whoever makes up an FMSPC would choose what we fetch.
"""

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from kubenclave.dcap.azurepolicy import AzurePolicy
from kubenclave.dcap.azurepolicy.appraise import appraise
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.chain import verify_pck_chain
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.judgement import Freshness, Judgement
from kubenclave.dcap.policy import Policy
from kubenclave.dcap.verdict import QuoteVerdict, verify_quote
from kubenclave.errors import FormatError, KubenclaveError, TrustError, UnreachableError
from kubenclave.services.attestation.challenges import Challenges
from kubenclave.services.attestation.evidence import Evidence
from kubenclave.services.attestation.policies.store import StoredPolicy
from kubenclave.services.attestation.provider import CollateralProvider
from kubenclave.services.attestation.settings import Settings
from kubenclave.services.web.limits import waiting


@dataclass(slots=True)
class Judge:
    """Judges under one root, by the service's clock alone; ``tell`` hears each outcome: the error, None for none."""

    settings: Settings
    provider: CollateralProvider
    challenges: Challenges
    now: Callable[[], dt.datetime]
    cache: Cache = field(default_factory=Cache)
    tell: Callable[[KubenclaveError | None], None] = lambda _outcome: None

    async def judge(self, evidence: Evidence, policy: StoredPolicy | None, *, draft: bool = False) -> Judgement:
        """Judge evidence under a policy; None where nobody said what is wanted.

        ``draft`` marks what a policy of the request's own says. Raises FormatError when the evidence cannot be read,
        TrustError when it is not genuine, not current or does not speak of what came with it, PolicyError when it is
        genuine and not what was wanted, and what the provider raises.
        """
        try:
            judgement = await self._judge(evidence, policy, draft=draft)
        except KubenclaveError as error:
            self.tell(error)
            raise
        self.tell(None)
        return judgement

    async def _judge(self, evidence: Evidence, policy: StoredPolicy | None, *, draft: bool) -> Judgement:
        if evidence.challenge is not None:
            self.challenges.check(evidence.challenge)
        collateral = await self.collateral(evidence)
        at = self.now()
        if evidence.certificate is not None:
            evidence.certificate.check_dates(at)
        wanted = None if policy is None else policy.parsed
        verdict = self._verify(evidence, collateral, wanted if isinstance(wanted, Policy) else None, at)
        evidence.check_binding(verdict.quote.body)
        judgement = Judgement(
            verdict=verdict,
            collateral=collateral,
            at=at,
            evidence_digest=evidence.digest,
            policy=None if policy is None else policy.reference(),
            issued={},
            relaxations=verdict.relaxations,
            freshness=Freshness.NONE,
            nonce=evidence.nonce,
            runtime_data=evidence.runtime_data,
            init_data=evidence.init_data,
            draft=draft,
        )
        if isinstance(wanted, AzurePolicy):
            said = appraise(wanted, judgement)
            relaxations = (*judgement.relaxations, *said.relaxations)
            judgement = dataclasses.replace(judgement, issued=said.issued, relaxations=relaxations)
        return await self._prove_fresh(judgement, evidence)

    async def collateral(self, evidence: Evidence) -> Collateral:
        """Get the collateral of the platform that a quote is from, once its PCK chain is known to hold.

        Raises TrustError ``pck.*`` for a chain that does not, and what the provider raises.
        """
        quote = evidence.parsed
        certification = quote.signature.certification_data
        pem = certification.pck_chain or evidence.pck_chain
        if pem is None:
            raise TrustError(
                "the quote carries no PCK certificate",
                code="pck.missing",
                field="pck_chain",
                expected="certification data of type 5, or the chain beside the quote",
                found=certification.kind.name,
                hint="send the PCK certificate chain of that platform as pck_chain",
            )
        fmspc, ca = self._platform(pem)
        try:
            with waiting():
                return await self.provider.collateral(quote.header.tee_type, fmspc, ca)
        except (TrustError, FormatError, UnreachableError) as error:
            if error.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            raise _lacking(error) from error

    def _platform(self, pem: bytes) -> tuple[str, str]:
        """Return FMSPC and CA of a chain that holds under our root, whatever the time."""
        anchor = self.settings.anchor

        def check() -> tuple[str, str]:
            chain = verify_pck_chain(pem, anchor, self.cache)
            return chain.extension.fmspc.hex(), chain.ca_kind.value

        return self.cache.get_or_check(("platform", hashlib.sha256(pem).digest(), anchor.identity), check)

    async def _prove_fresh(self, judgement: Judgement, evidence: Evidence) -> Judgement:
        """Use up the challenge that the verified quote speaks of, where there is one: last, so that refusals cost none.

        Raises TrustError (codes ``challenge.*``, ``evidence.challenge-not-bound``).
        """
        if evidence.challenge is None:
            return judgement
        evidence.check_challenge(evidence.challenge)
        await self.challenges.redeem(evidence.challenge)
        return dataclasses.replace(judgement, freshness=Freshness.CHALLENGE)

    def _verify(
        self, evidence: Evidence, collateral: Collateral, policy: Policy | None, at: dt.datetime
    ) -> QuoteVerdict:
        settings = self.settings
        return verify_quote(
            evidence.quote,
            collateral,
            at=at,
            root=settings.root,
            pck_chain=evidence.pck_chain,
            policy=policy,
            minimum_tcb_evaluation_data_number=settings.minimum_tcb_evaluation_data_number,
            dangerously_allow_debug=settings.dangerously_allow_debug,
            dangerously_accept_expired_collateral=settings.dangerously_accept_expired_collateral,
            cache=self.cache,
        )


def _lacking(error: KubenclaveError) -> UnreachableError:
    """Say what collateral that is not good, or that nobody has, means here: no verdict, and no fault of who asks."""
    return UnreachableError(
        f"no collateral to judge with: {error.message}",
        code=error.code,
        field=error.field,
        expected=error.expected,
        found=error.found,
        hint=error.hint,
    )
