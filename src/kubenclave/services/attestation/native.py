# SPDX-License-Identifier: Apache-2.0
"""The native API, under /v1: challenge, attest, verify, batch, key sets, OpenAPI document.

Whatever is refused is answered with a problem document (RFC 9457) that says why; docs/attestation-service.md.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.dcap.describe import zulu
from kubenclave.dcap.judgement import Freshness, Judgement
from kubenclave.errors import KubenclaveError, UsageError
from kubenclave.services.attestation.evidence import Evidence
from kubenclave.services.attestation.issue import TokenDialect
from kubenclave.services.attestation.keys.store import Algorithm
from kubenclave.services.attestation.policies.store import StoredPolicy
from kubenclave.services.attestation.requests import (
    MAX_BODY,
    AttestRequest,
    BatchRequest,
    EvidenceRequest,
    VerifyRequest,
    convert,
    evidence_of,
    read,
)
from kubenclave.services.attestation.service import TEE_TYPES, AttestationService
from kubenclave.services.web import problems
from kubenclave.services.web.credentials import Role

KEY_SET_AGE: Final = 300  # seconds, as long as most clients keep a key set anyhow


def native_routes(service: AttestationService) -> Sequence[Route]:
    """Return the routes of the native API for a service."""
    api = _Native(service)
    return (
        Route("/v1/challenge", api.challenge, methods=["POST"]),
        Route("/v1/attest", api.attest, methods=["POST"]),
        Route("/v1/verify", api.verify, methods=["POST"]),
        Route("/v1/attest/batch", api.batch, methods=["POST"]),
        Route("/v1/certs", api.certs, methods=["GET"]),
    )


class _Native:
    def __init__(self, service: AttestationService) -> None:
        self._service = service

    async def challenge(self, request: Request) -> Response:
        await self._service.guard.require(request, Role.ATTEST)
        issued = self._service.challenges.issue()
        return answer({"nonce": issued.nonce, "expires": zulu(issued.expires)})

    async def attest(self, request: Request) -> Response:
        await self._service.guard.require(request, Role.ATTEST)
        return answer(await self._attest(read(AttestRequest, await request.body())))

    async def verify(self, request: Request) -> Response:
        await self._service.guard.require(request, Role.ATTEST)
        asked = read(VerifyRequest, await request.body())
        evidence = evidence_of(asked)
        policy = self._policy(asked, evidence)
        if asked.policy_version is not None:
            policy = self._service.policies.get(policy.tee_type, asked.policy_version)
        return answer(described(await self._service.judge.judge(evidence, _wanted(policy))))

    async def batch(self, request: Request) -> Response:
        """Answer each item by itself, in order; one that is refused has a ``problem`` in its place."""
        await self._service.guard.require(request, Role.ATTEST)
        most = self._service.settings.max_batch
        items = read(BatchRequest, await request.body(), most * MAX_BODY).items
        if len(items) > most:
            raise UsageError(
                "too many items in one batch", code="request.batch", expected=f"{most} at most", found=str(len(items))
            )
        return answer({"items": await asyncio.gather(*map(self._item, items))})

    async def certs(self, request: Request) -> Response:
        return key_set(self._service.keyring.jwks(Algorithm.ES256))

    async def _item(self, item: Any) -> dict[str, Any]:
        try:
            return await self._attest(convert(AttestRequest, item))
        except KubenclaveError as error:
            return {"problem": problems.document(error)}

    async def _attest(self, asked: AttestRequest) -> dict[str, Any]:
        evidence = evidence_of(asked)
        dialect = None if asked.token == "none" else TokenDialect(asked.token)  # noqa: S105 - the name of a dialect
        policy = self._policy(asked, evidence)
        if asked.policy_version not in {None, policy.version}:
            raise UsageError(
                "another version of the policy is in force",
                code="request.policy-version",
                field="policy_version",
                expected=str(policy.version),
                found=str(asked.policy_version),
                hint="tokens are made under the policy in force; /v1/verify takes any version",
            )
        wanted = policy if dialect is TokenDialect.AZURE else _wanted(policy)
        attested = await self._service.attest(evidence, wanted, dialect)
        token = {"token": attested.token} if attested.token else {}
        return {**token, **described(attested.judgement), "receipt": attested.receipt.as_dict()}

    def _policy(self, asked: EvidenceRequest, evidence: Evidence) -> StoredPolicy:
        """Return the policy in force for evidence of that kind."""
        kind = "OpenEnclave" if asked.open_enclave_report else TEE_TYPES[evidence.parsed.header.tee_type]
        return self._service.policies.current(kind)


def _wanted(policy: StoredPolicy) -> StoredPolicy | None:
    """Return None for the default, which lets everything through: then nobody said what is wanted, and results say so.

    In Azure's dialect the default has its say all the same: clients count on the claims that it issues.
    """
    return None if policy.is_default else policy


def described(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as JSON values; ``verdict`` has the shape of ``quote verify --output json``."""
    policy = judgement.policy
    return {
        "verdict": {
            **judgement.verdict.as_dict(),
            "appraised": judgement.appraised,
            "policy": policy.name if policy else None,
        },
        "fresh": judgement.freshness is not Freshness.NONE,
        "relaxations": list(judgement.relaxations),
        "issued": dict(judgement.issued),
        "policy": None if policy is None else policy.as_dict(),
    }


def answer(value: Any, status: int = 200, **headers: str) -> Response:
    """Return an answer in JSON that nobody may keep."""
    body = msgspec.json.encode(value)
    return Response(body, status, headers={"Cache-Control": "no-store", **headers}, media_type="application/json")


def key_set(keys: Any) -> Response:
    """Return a key set (RFC 7517), which clients may keep for five minutes."""
    body = msgspec.json.encode(keys)
    headers = {"Cache-Control": f"max-age={KEY_SET_AGE}"}
    return Response(body, headers=headers, media_type="application/jwk-set+json")
