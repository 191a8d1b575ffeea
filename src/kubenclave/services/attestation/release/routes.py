# SPDX-License-Identifier: Apache-2.0
"""Key release over HTTP: enclaves ask at /v1/release, administrators keep secrets under /v1/secrets."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.errors import UsageError
from kubenclave.services.attestation.evidence import MAX_NONCE
from kubenclave.services.attestation.issue import new_jti
from kubenclave.services.attestation.native import answer
from kubenclave.services.attestation.policies.store import StoredPolicy
from kubenclave.services.attestation.release.rules import Released, policy_for, release
from kubenclave.services.attestation.release.secrets import MAX_SECRET
from kubenclave.services.attestation.requests import MAX_VERSION, EvidenceRequest, decode, evidence_of, read
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web.credentials import Role

_MAX_VALUE: Final = MAX_SECRET // 3 * 4 + 4
_log = structlog.get_logger()


class ReleaseRequest(EvidenceRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /v1/release``: evidence over a challenge and a key, and the secret that is asked for."""

    secret: Annotated[str, msgspec.Meta(min_length=1, max_length=127)]
    challenge: Annotated[str, msgspec.Meta(max_length=MAX_NONCE)] | None = None


class SecretRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of ``PUT /v1/secrets/NAME``. The secret is for the policy that is in force for ``tee_type``.

    ``policy_version`` is the version that the administrator counts on: another one in force is refused.
    """

    value: Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_VALUE, description="The secret in base64url")]
    tee_type: Literal["SgxEnclave", "OpenEnclave", "TdxVm"] = "SgxEnclave"
    policy_version: Annotated[int, msgspec.Meta(ge=1, le=MAX_VERSION)] | None = None
    simulated: bool = False


def release_routes(service: AttestationService) -> Sequence[Route]:
    """Return the routes of key release of a service."""
    api = _Release(service)
    return (
        Route("/v1/release", api.release, methods=["POST"]),
        Route("/v1/secrets", api.list, methods=["GET"]),
        Route("/v1/secrets/{name}", api.put, methods=["PUT"]),
        Route("/v1/secrets/{name}", api.delete, methods=["DELETE"]),
    )


class _Release:
    def __init__(self, service: AttestationService) -> None:
        self._service = service

    async def release(self, request: Request) -> Response:
        service = self._service
        await service.guard.require(request, Role.ATTEST)
        asked = read(ReleaseRequest, await request.body())
        evidence = dataclasses.replace(evidence_of(asked), challenge=asked.challenge)
        secret = service.secrets.info(asked.secret)
        jti = new_jti()
        policy = service.policies.current(secret.tee_type)
        judgement = await service.judged(evidence, policy, jti, wanted=secret.name)
        self._check_still_in_force(policy)
        released = await release(secret, judgement, jti=jti, secrets=service.secrets, log=service.log)
        _log.info("secret.released", secret=secret.name, version=secret.version, entry=released.receipt.index)
        return answer(_described(released))

    def _check_still_in_force(self, policy: StoredPolicy) -> None:
        """Refuse when the policy was replaced while collateral was waited for: whoever replaced it counts on that."""
        found = self._service.policies.current(policy.tee_type).version
        if found != policy.version:
            raise UsageError(
                "the policy was replaced meanwhile",
                code="request.policy-version",
                field=policy.tee_type,
                expected=str(policy.version),
                found=str(found),
                hint="ask again, with evidence over a new challenge",
            )

    async def list(self, request: Request) -> Response:
        await self._service.guard.require(request, Role.RELEASE_ADMIN)
        return answer({"secrets": [info.as_dict() for info in self._service.secrets.list()]})

    async def put(self, request: Request) -> Response:
        service = self._service
        principal = await service.guard.require(request, Role.RELEASE_ADMIN)
        asked = read(SecretRequest, await request.body())
        policy = policy_for(service.policies.current(asked.tee_type), asked.policy_version)
        info = await asyncio.to_thread(
            service.secrets.put,
            request.path_params["name"],
            decode(asked.value, "value"),
            tee_type=asked.tee_type,
            policy=policy.digest,
            by=principal.name,
            simulated=asked.simulated,
        )
        _log.info("secret.stored", secret=info.name, version=info.version, by=info.by)
        return answer(info.as_dict())

    async def delete(self, request: Request) -> Response:
        principal = await self._service.guard.require(request, Role.RELEASE_ADMIN)
        name = request.path_params["name"]
        await asyncio.to_thread(self._service.secrets.delete, name)
        _log.info("secret.deleted", secret=name, by=principal.name)
        return Response(status_code=204)


def _described(released: Released) -> dict[str, object]:
    return {
        "secret": released.secret.name,
        "version": released.secret.version,
        "simulated": released.secret.simulated,
        "jwe": released.jwe,
        "receipt": released.receipt.as_dict(),
    }
