# SPDX-License-Identifier: Apache-2.0
"""The attestation service: its parts put together, and the order in which they take part.

Verify and appraise, then log, then sign: no token exists whose verdict is not in the log, on disk.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from kubenclave.dcap.anchor import intel_root
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.judgement import HeldData, Judgement
from kubenclave.dcap.verify import Verified
from kubenclave.errors import KubenclaveError, PolicyError, UsageError
from kubenclave.services.attestation.challenges import Challenges
from kubenclave.services.attestation.evidence import Evidence
from kubenclave.services.attestation.evidence_store import EvidenceLimits, EvidenceStore, StoredEvidence
from kubenclave.services.attestation.issue import TokenDialect, TokenIssuer, new_jti
from kubenclave.services.attestation.judge import Judge
from kubenclave.services.attestation.keys.store import KeyRing, KeySettings
from kubenclave.services.attestation.policies.store import PolicyStore, StoredPolicy, TrustModel
from kubenclave.services.attestation.provider import CollateralProvider
from kubenclave.services.attestation.release.secrets import SecretStore, load_key
from kubenclave.services.attestation.settings import Settings
from kubenclave.services.attestation.transparency.archive import CollateralArchive
from kubenclave.services.attestation.transparency.entries import accepted_entry, refused_entry
from kubenclave.services.attestation.transparency.log import Receipt, VerdictLog
from kubenclave.services.database import Database
from kubenclave.services.web.credentials import Credentials, Role
from kubenclave.services.web.guard import Guard
from kubenclave.sgx.quote import TeeType

DATABASE: Final = "attestation.db"
TEE_TYPES: Final = {TeeType.SGX: "SgxEnclave", TeeType.TDX: "TdxVm"}
"""Under which name policies are kept, by the TEE of a quote."""

MIGRATIONS: Final = ("""CREATE TABLE service (only INTEGER PRIMARY KEY CHECK (only = 1), root TEXT NOT NULL);""",)


@dataclass(frozen=True, slots=True)
class Attested:
    """Answer to an attest request. ``token`` is empty where none was asked for."""

    judgement: Judgement
    token: str
    receipt: Receipt


@dataclass(slots=True, kw_only=True)
class AttestationService:
    """One worker's service; all workers of a state directory share keys, policies, log and challenges."""

    settings: Settings
    now: Callable[[], dt.datetime]
    database: Database
    credentials: Credentials
    guard: Guard
    policies: PolicyStore
    kept: EvidenceStore
    secrets: SecretStore
    keyring: KeyRing
    issuer: TokenIssuer
    log: VerdictLog
    archive: CollateralArchive
    challenges: Challenges
    judge: Judge
    seen: Callable[[Verified], Awaitable[None]] | None = None  # told of each quote that was accepted

    @classmethod
    def create(cls, settings: Settings, provider: CollateralProvider, now: Callable[[], dt.datetime]) -> Self:
        """Open the state directory, or begin it. Raises PlatformError, and UsageError for one of another root."""
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = Database(settings.state / DATABASE)
        try:
            return cls._on(database, settings, provider, now)
        except BaseException:
            database.close()
            raise

    @classmethod
    def _on(
        cls, database: Database, settings: Settings, provider: CollateralProvider, now: Callable[[], dt.datetime]
    ) -> Self:
        _keep_to_root(database, settings)
        credentials, challenges = Credentials(database, now), Challenges(database, now, settings.challenge_lifetime)
        keys = KeySettings(
            issuer_url=settings.issuer,
            simulated=settings.simulated,
            token_lifetime=settings.token_lifetime,
            files=settings.signing_key_files,
        )
        keyring = KeyRing(database, now, keys)
        drafts = settings.dangerously_allow_draft_policies
        return cls(
            settings=settings,
            now=now,
            database=database,
            credentials=credentials,
            guard=Guard(credentials, anybody=[Role.ATTEST] if settings.open else []),
            policies=PolicyStore(
                database, now, trust_model=TrustModel.ISOLATED if settings.isolated else TrustModel.AAD
            ),
            kept=EvidenceStore(database, now, EvidenceLimits(count=settings.keep_evidence)),
            secrets=SecretStore(
                database,
                now,
                key=None if settings.secrets_key is None else load_key(settings.secrets_key),
                simulated=settings.simulated,
            ),
            keyring=keyring,
            issuer=TokenIssuer(keyring, now, lifetime=settings.token_lifetime, drafts=drafts),
            log=VerdictLog(database, origin=settings.issuer.partition("://")[2]),
            archive=CollateralArchive(database, now),
            challenges=challenges,
            judge=Judge(settings, provider, challenges, now),
        )

    async def attest(
        self,
        evidence: Evidence,
        policy: StoredPolicy | None,
        dialect: TokenDialect | None,
        *,
        draft: bool = False,
    ) -> Attested:
        """Judge evidence under a policy, log the verdict, and sign a token of that dialect unless it is None.

        Raises FormatError, TrustError and PolicyError as the judge does; the refusals of a policy are in the log.
        """
        jti = new_jti()
        judgement = await self.judged(evidence, policy, jti, draft=draft)
        receipt = await self.log.append(accepted_entry(judgement, jti=jti))
        token = "" if dialect is None else self.issuer.issue(judgement, dialect, log=receipt, jti=jti)
        return Attested(judgement, token, receipt)

    async def judged(
        self,
        evidence: Evidence,
        policy: StoredPolicy | None,
        jti: str,
        *,
        draft: bool = False,
        wanted: str | None = None,
    ) -> Judgement:
        """Judge evidence; a refusal by the policy is in the log before it is told. Both are kept where evidence is.

        ``wanted`` names the secret that was asked for. Raises what the judge raises.
        """
        try:
            judgement = await self.judge.judge(evidence, policy, draft=draft)
        except PolicyError as refusal:
            await self.log.append(
                refused_entry(
                    refusal,
                    jti=jti,
                    at=self.now(),
                    evidence_digest=evidence.digest,
                    policy=None if policy is None else policy.reference(),
                    simulated=self.settings.simulated,
                    wanted=wanted,
                )
            )
            if self.kept.limits.count:  # what another policy would say of it is what dry runs are asked for
                with suppress(KubenclaveError):  # the refusal is told, whatever becomes of that
                    await self._keep(evidence, await self.judge.collateral(evidence), self.now())
            raise
        await self.archive.keep(judgement.collateral)
        if self.seen is not None:
            await self.seen(judgement.verdict.verified)
        if self.kept.limits.count:
            await self._keep(evidence, judgement.collateral, judgement.at, judgement.runtime_data)
        return judgement

    async def _keep(
        self, evidence: Evidence, collateral: Collateral, at: dt.datetime, bound: HeldData | None = None
    ) -> None:
        """Keep genuine evidence for dry runs; ``bound`` is the runtime data that the quote was found to speak of."""
        piece = StoredEvidence(
            tee_type=TEE_TYPES[evidence.parsed.header.tee_type],
            quote=evidence.quote,
            pck_chain=evidence.pck_chain,
            collateral=collateral,
            runtime_digest=None if bound is None else bound.digest,
            at=at,
        )
        await asyncio.to_thread(self.kept.keep, piece)

    def close(self) -> None:
        """Close the database; nothing may be under way."""
        self.database.close()


def is_simulated(database: Database) -> bool:
    """Tell of the database of a service that has run whether it is for a simulated root."""
    return bool(database.read("SELECT root FROM service")[0]["root"] != intel_root().digest)


def _keep_to_root(database: Database, settings: Settings) -> None:
    """Refuse a state directory that belongs to another root: its keys have signed tokens that mean something else."""
    database.migrate("service", MIGRATIONS)
    root = settings.anchor.digest
    with database.transaction() as connection:
        connection.execute("INSERT OR IGNORE INTO service VALUES (1, ?)", (root,))
        kept = connection.execute("SELECT root FROM service").fetchone()["root"]
    if kept != root:
        raise UsageError(
            "the state directory belongs to a service for another root",
            code="settings.other-root",
            field="state",
            expected=f"root {kept[:16]}",
            found=f"root {root[:16]}",
            hint="a service is for one root all its life: give this one a directory of its own",
        )
