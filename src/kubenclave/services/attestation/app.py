# SPDX-License-Identifier: Apache-2.0
"""The attestation service as a web application: all APIs of one service, under the path of its issuer's URL."""

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount

from kubenclave.errors import KubenclaveError, PlatformError, UsageError
from kubenclave.services.attestation.azure import azure_routes
from kubenclave.services.attestation.key_routes import key_routes
from kubenclave.services.attestation.log_routes import log_routes
from kubenclave.services.attestation.native import native_routes
from kubenclave.services.attestation.policy_routes import policy_routes
from kubenclave.services.attestation.release_routes import release_routes
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web import problems

_log = structlog.get_logger()


def attestation_app(service: AttestationService) -> Starlette:
    """Return the application; limits, log and metrics are for whoever serves it (``services.web``)."""
    routes = attestation_routes(service)
    path = service.settings.path
    return Starlette(
        routes=[Mount(path, routes=routes)] if path else routes,
        exception_handlers={KubenclaveError: _refused, HTTPException: _no_route, Exception: _failed},
    )


def attestation_routes(service: AttestationService) -> list[BaseRoute]:
    """Return the routes of all APIs."""
    return [
        *native_routes(service),
        *policy_routes(service),
        *key_routes(service),
        *log_routes(service),
        *release_routes(service),
        *azure_routes(service),
    ]


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, KubenclaveError)
    return problems.problem(error)


async def _no_route(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = UsageError(
        "no such route" if error.status_code == 404 else "the route does not take this method",
        code="request.no-route" if error.status_code == 404 else "request.method",
        hint="GET /v1/openapi.json lists all routes",
    )
    return problems.problem(refusal, headers=error.headers)


async def _failed(_request: Request, error: Exception) -> Response:
    """Answer for a fault of ours without a word of what it was: that is for the log."""
    _log.error("request.failed", error=type(error).__name__)
    return problems.problem(PlatformError("the service failed", code="request.failed"))
