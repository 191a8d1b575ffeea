# SPDX-License-Identifier: Apache-2.0
"""Policies over the native API, under /v1/policies: read, set, reset, try on evidence that was kept, compare.

Whoever may attest may read them, as may who sets them: a token names its policy by digest, and a relying party wants to
know what it says.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.dcap.azurepolicy import AzurePolicy
from kubenclave.dcap.policy import Policy
from kubenclave.errors import FormatError, TrustError
from kubenclave.services.attestation.native import answer
from kubenclave.services.attestation.policies.compare import Terms, diff, dry_run
from kubenclave.services.attestation.policies.store import MAX_SIZE, PolicyFormat, StoredPolicy, read_policy
from kubenclave.services.attestation.requests import MAX_VERSION, read
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web.credentials import Role

_NUMBER: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_log = structlog.get_logger()
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SIZE)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class SetPolicyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of ``PUT /v1/policies/{type}``; ``expected_version`` is the one in force as the caller knows it."""

    text: _Text
    format: Literal["kubenclave", "azure"] = "kubenclave"
    expected_version: _Version | None = None


class ResetPolicyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /v1/policies/{type}/reset``."""

    expected_version: _Version | None = None


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A policy to try: a version that is kept, or a text; the one in force where neither is given."""

    version: _Version | None = None
    text: _Text | None = None
    format: Literal["kubenclave", "azure"] = "kubenclave"


class DryRunRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /v1/policies/{type}/dry-run``; ``count`` is of the latest pieces of evidence."""

    policy: Candidate = Candidate()
    count: _Count = 100


class DiffRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /v1/policies/{type}/diff``: what ``second`` would change against ``first``."""

    second: Candidate
    first: Candidate = Candidate()
    count: _Count = 100


def policy_routes(service: AttestationService) -> Sequence[Route]:
    """Return the routes of policies."""
    api = _Policies(service)
    return (
        Route("/v1/policies/{type}", api.get, methods=["GET"]),
        Route("/v1/policies/{type}", api.put, methods=["PUT"]),
        Route("/v1/policies/{type}/reset", api.reset, methods=["POST"]),
        Route("/v1/policies/{type}/history", api.history, methods=["GET"]),
        Route("/v1/policies/{type}/versions/{version}", api.version, methods=["GET"]),
        Route("/v1/policies/{type}/dry-run", api.dry_run, methods=["POST"]),
        Route("/v1/policies/{type}/diff", api.diff, methods=["POST"]),
    )


class _Policies:
    def __init__(self, service: AttestationService) -> None:
        self._service = service
        settings = service.settings
        self._terms = Terms(
            root=settings.root,
            minimum_tcb_evaluation_data_number=settings.minimum_tcb_evaluation_data_number,
            dangerously_allow_debug=settings.dangerously_allow_debug,
            dangerously_accept_expired_collateral=settings.dangerously_accept_expired_collateral,
        )

    async def get(self, request: Request) -> Response:
        await self._may_read(request)
        return answer(_shown(self._service.policies.current(request.path_params["type"])))

    async def version(self, request: Request) -> Response:
        await self._may_read(request)
        number = request.path_params["version"]
        if not _NUMBER.fullmatch(number):
            raise FormatError(
                "not the number of a version",
                code="request.malformed",
                field="version",
                expected="a whole number",
                found=number[:40],
            )
        return answer(_shown(self._service.policies.get(request.path_params["type"], int(number))))

    async def history(self, request: Request) -> Response:
        """Answer with the latest hundred versions, without their texts."""
        await self._may_read(request)
        versions = self._service.policies.history(request.path_params["type"])
        return answer({"versions": [each.as_dict() for each in versions]})

    async def put(self, request: Request) -> Response:
        principal = await self._service.guard.require(request, Role.POLICY_ADMIN)
        asked = read(SetPolicyRequest, await request.body())
        policy = await asyncio.to_thread(
            self._service.policies.put,
            request.path_params["type"],
            asked.text,
            asked.format,
            by=principal.name,
            expected_version=asked.expected_version,
        )
        return _changed(policy)

    async def reset(self, request: Request) -> Response:
        principal = await self._service.guard.require(request, Role.POLICY_ADMIN)
        body = await request.body()
        asked = read(ResetPolicyRequest, body) if body else ResetPolicyRequest()
        policy = await asyncio.to_thread(
            self._service.policies.reset,
            request.path_params["type"],
            by=principal.name,
            expected_version=asked.expected_version,
        )
        return _changed(policy)

    async def dry_run(self, request: Request) -> Response:
        await self._service.guard.require(request, Role.POLICY_ADMIN)
        asked, kind = read(DryRunRequest, await request.body()), request.path_params["type"]
        policy = self._candidate(kind, asked.policy)
        return answer(await asyncio.to_thread(self._try, kind, policy, asked.count))

    async def diff(self, request: Request) -> Response:
        await self._service.guard.require(request, Role.POLICY_ADMIN)
        asked, kind = read(DiffRequest, await request.body()), request.path_params["type"]
        first, second = self._candidate(kind, asked.first), self._candidate(kind, asked.second)
        return answer(await asyncio.to_thread(self._compare, kind, first, second, asked.count))

    async def _may_read(self, request: Request) -> None:
        """Let through who may attest, and who administers policies. Raises TrustError ``credentials.*``."""
        try:
            await self._service.guard.require(request, Role.ATTEST)
        except TrustError as error:
            if error.code != "credentials.role":
                raise
            await self._service.guard.require(request, Role.POLICY_ADMIN)

    def _try(self, kind: str, policy: Policy | AzurePolicy, count: int) -> dict[str, Any]:
        return dry_run(policy, self._service.kept.latest(kind, count), self._terms).as_dict()

    def _compare(
        self, kind: str, first: Policy | AzurePolicy, second: Policy | AzurePolicy, count: int
    ) -> dict[str, Any]:
        return diff(first, second, self._service.kept.latest(kind, count), self._terms).as_dict()

    def _candidate(self, kind: str, wanted: Candidate) -> Policy | AzurePolicy:
        policies = self._service.policies
        if wanted.text is not None and wanted.version is not None:
            raise FormatError(
                "a policy is a version or a text, not both",
                code="request.malformed",
                field="policy",
                expected="version or text",
                found="both",
            )
        if wanted.text is not None:
            policies.current(kind)  # refuses types that there are not
            return read_policy(wanted.text, PolicyFormat(wanted.format))
        return (policies.current(kind) if wanted.version is None else policies.get(kind, wanted.version)).parsed


def _shown(policy: StoredPolicy) -> dict[str, Any]:
    return {**policy.as_dict(), "text": policy.text}


def _changed(policy: StoredPolicy) -> Response:
    _log.info("policy.set", type=policy.tee_type, version=policy.version, digest=policy.digest.hex(), by=policy.by)
    return answer(policy.as_dict())
