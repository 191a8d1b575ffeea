# SPDX-License-Identifier: Apache-2.0
"""The attestation service as a web application: all APIs of one service, under the path of its issuer's URL."""

from collections.abc import Mapping
from http import HTTPStatus

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Router

from kubenclave.errors import KubenclaveError, PlatformError, UsageError
from kubenclave.log import fault
from kubenclave.services.attestation.azure.http import error_response, is_azure_path
from kubenclave.services.attestation.azure.routes import azure_routes
from kubenclave.services.attestation.keys.routes import key_routes
from kubenclave.services.attestation.native import native_routes
from kubenclave.services.attestation.openapi import openapi_route
from kubenclave.services.attestation.policies.routes import policy_routes
from kubenclave.services.attestation.release.routes import release_routes
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.attestation.transparency.routes import log_routes
from kubenclave.services.web import problems

_log = structlog.get_logger()


def attestation_app(service: AttestationService) -> Starlette:
    """Return the application; limits, log and metrics are for whoever serves it (``services.web``)."""
    routes = attestation_routes(service)
    path = service.settings.path
    failures = _Failures(path)
    below = Mount(path, app=Router(routes, redirect_slashes=False))  # a redirect would go where a Host header says
    app = Starlette(
        # EGo's client puts the paths of Azure's API behind the host, whatever the path of the URL that it was given.
        routes=[below, *azure_routes(service)] if path else routes,
        exception_handlers={
            KubenclaveError: failures.refused,
            HTTPException: failures.no_route,
            Exception: failures.failed,
        },
    )
    app.router.redirect_slashes = False
    return app


def attestation_routes(service: AttestationService) -> list[BaseRoute]:
    """Return the routes of all APIs."""
    return [
        *native_routes(service),
        openapi_route(service),
        *policy_routes(service),
        *key_routes(service),
        *log_routes(service),
        *release_routes(service),
        *azure_routes(service),
    ]


class _Failures:
    """Answers for what no route has answered, in the shape of the API whose path was asked for."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, KubenclaveError)
        return self._answer(request, error)

    async def no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        missing = error.status_code == HTTPStatus.NOT_FOUND
        refusal = UsageError(
            "no such route" if missing else "the route does not take this method",
            code="request.no-route" if missing else "request.method",
            hint="GET /v1/openapi.json lists all routes",
        )
        return self._answer(request, refusal, error.headers)

    async def failed(self, request: Request, error: Exception) -> Response:
        """Answer for a fault of ours without a word of what it was: that is for the log."""
        _log.error("request.failed", **fault(error))
        return self._answer(request, PlatformError("the service failed", code="request.failed"))

    def _answer(self, request: Request, error: KubenclaveError, headers: Mapping[str, str] | None = None) -> Response:
        if is_azure_path(request.scope["path"].removeprefix(self._prefix)):
            return error_response(error, headers)
        return problems.problem(error, headers=headers)
