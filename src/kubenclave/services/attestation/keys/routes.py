# SPDX-License-Identifier: Apache-2.0
"""Signing keys over the native API, under /v1/keys: list, rotate, revoke; private halves never leave."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.errors import UsageError
from kubenclave.services.attestation.keys.store import Algorithm, SigningKey, State
from kubenclave.services.attestation.native import answer
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web.credentials import Role

_log = structlog.get_logger()


def key_routes(service: AttestationService) -> Sequence[Route]:
    """Return the routes of signing keys."""
    api = _Keys(service)
    return (
        Route("/v1/keys", api.list, methods=["GET"]),
        Route("/v1/keys/{algorithm}/rotate", api.rotate, methods=["POST"]),
        Route("/v1/keys/{kid}/revoke", api.revoke, methods=["POST"]),
    )


class _Keys:
    def __init__(self, service: AttestationService) -> None:
        self._service = service

    async def list(self, request: Request) -> Response:
        """Answer with all keys that ever were, oldest first."""
        await self._service.guard.require(request, Role.KEY_ADMIN)
        return answer({"keys": [_shown(key, state) for state, key in self._service.keyring.states()]})

    async def rotate(self, request: Request) -> Response:
        """Publish the next key of an algorithm; it signs once clients have had the time to fetch it."""
        principal = await self._service.guard.require(request, Role.KEY_ADMIN)
        name = request.path_params["algorithm"]
        if name not in list(Algorithm):
            known = " or ".join(Algorithm)
            raise UsageError(
                "keys are not made for this algorithm", code="request.algorithm", expected=known, found=name[:40]
            )
        key = await asyncio.to_thread(self._service.keyring.rotate, Algorithm(name))
        _log.info("key.rotated", kid=key.kid, by=principal.name)
        return answer(self._described(key))

    async def revoke(self, request: Request) -> Response:
        """Withdraw a key at once, with every token that it signed; answer with the one in its place."""
        principal = await self._service.guard.require(request, Role.KEY_ADMIN)
        kid = request.path_params["kid"]
        key = await asyncio.to_thread(self._service.keyring.revoke, kid)
        _log.warning("key.revoked", kid=kid, by=principal.name)
        return answer(self._described(key))

    def _described(self, key: SigningKey) -> dict[str, Any]:
        return next(_shown(each, state) for state, each in self._service.keyring.states() if each.kid == key.kid)


def _shown(key: SigningKey, state: State) -> dict[str, Any]:
    return {**key.as_dict(), "state": state.value, "jwk": key.jwk}
