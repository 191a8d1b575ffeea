# SPDX-License-Identifier: Apache-2.0
"""Policies over Azure's API: get, set and reset, each answered with a token of the service's own."""

import asyncio
import datetime as dt
import hashlib
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from kubenclave.errors import FormatError
from kubenclave.services.attestation.azure.http import check_version, read_text, signed_response
from kubenclave.services.attestation.azure.signed import Opened, open_token
from kubenclave.services.attestation.azure.writers import Writers
from kubenclave.services.attestation.policies.store import MAX_SIZE, PolicyFormat, StoredPolicy
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web.credentials import Role
from kubenclave.wire import maa

DRAFT: Final = "draft"  # who sets a policy that came with a request
_JWT: Final = "eyJ"  # {" in base64: no policy begins so


class Policies:
    """The policy of each type of attestation."""

    def __init__(self, service: AttestationService, writers: Writers) -> None:
        self._service: Final = service
        self._writers: Final = writers

    async def get(self, request: Request) -> Response:
        """``GET /policies/{type}``: the policy in force, in the token that it came in."""
        check_version(request)
        kind = maa.check_type(request.path_params["type"])
        await self._service.guard.require(request, Role.POLICY_ADMIN)
        policy = self._service.policies.current(kind)
        return signed_response(
            self._service, {"x-ms-policy": policy.token or maa.unsecured_token(maa.policy_claims(policy.text))}
        )

    async def put(self, request: Request) -> Response:
        """``PUT /policies/{type}``: put the policy of a token in force."""
        kind, opened = await self._open(request)
        text = maa.policy_text(opened.claims, MAX_SIZE)
        by = await self._writers.permit(request, opened)
        jwk = None if opened.signer is None else opened.signer.jwk
        await asyncio.to_thread(
            self._service.policies.put, kind, text, PolicyFormat.AZURE, by=by, signer=jwk, token=opened.text
        )
        digest = maa.encode_base64(hashlib.sha256(opened.text.encode()).digest())
        signer = {} if jwk is None else {"x-ms-policy-signer": jwk}
        return signed_response(
            self._service, {"x-ms-policy-result": "Updated", "x-ms-policy-token-hash": digest, **signer}
        )

    async def reset(self, request: Request) -> Response:
        """``POST /policies/{type}:reset``: put the default in force again; the token has an empty payload."""
        kind, opened = await self._open(request)
        if opened.claims not in (None, "", {}):
            raise FormatError(
                "the token of a reset says something", code="maa.member", field="payload", expected="an empty one"
            )
        by = await self._writers.permit(request, opened)
        jwk = None if opened.signer is None else opened.signer.jwk
        await asyncio.to_thread(self._service.policies.reset, kind, by=by, signer=jwk)
        return signed_response(self._service, {"x-ms-policy-result": "Removed"})

    async def _open(self, request: Request) -> tuple[str, Opened]:
        check_version(request)
        kind = maa.check_type(request.path_params["type"])
        return kind, open_token(await read_text(request), self._service.now())


def draft_policy(given: str, kind: str, now: dt.datetime) -> StoredPolicy:
    """Return the policy that came with a request, as text or as a token that holds the text.

    Who signed such a token says nothing: what comes of a draft counts nowhere.
    """
    if given.startswith(_JWT):
        given = maa.policy_text(open_token(given, now).claims, MAX_SIZE)
    return StoredPolicy(tee_type=kind, version=0, format=PolicyFormat.AZURE, text=given, created=now, by=DRAFT)
