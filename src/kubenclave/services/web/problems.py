# SPDX-License-Identifier: Apache-2.0
"""Errors over HTTP: the status that each gets, and problem documents (RFC 9457) for the APIs that are ours."""

import datetime as dt
import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from kubenclave import serving
from kubenclave.errors import KubenclaveError

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = 1
"""Seconds after which somebody who came at a bad moment may try again."""

_STATUS: Final = {
    "archive.unknown": 404,
    "credentials.missing": 401,
    "credentials.role": 403,
    "credentials.unknown": 401,
    "limits.busy": 503,
    "limits.late": 503,
    "limits.rate": 429,
    "log.range": 404,
    "policy-store.conflict": 409,
    "policy-store.unknown-tee": 404,
    "policy-store.unknown-version": 404,
    "request.failed": 500,
    "request.method": 405,
    "request.no-route": 404,
    "request.policy-version": 409,
    "request.size": 413,
    "secret.unknown": 404,
    "signing-key.unknown": 404,
}


def status_of(error: KubenclaveError) -> int:
    """Return the HTTP status that tells a client of an error."""
    return _STATUS.get(error.code) or serving.status_of(error)


def headers_of(error: KubenclaveError) -> dict[str, str]:
    """Return the headers that belong to the status: how to authenticate, when to come again."""
    status = status_of(error)
    if status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": 'Bearer realm="kubenclave"'}
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return {"Retry-After": str(retry_after(error))}
    return {}


def retry_after(error: KubenclaveError, default: int = RETRY_AFTER) -> int:
    """Return the whole seconds after which trying again may help: as the error says, else ``default``."""
    told: object = getattr(error, "retry_after", None)
    seconds = told.total_seconds() if isinstance(told, dt.timedelta) else told
    return max(1, math.ceil(seconds)) if isinstance(seconds, int | float) else default


def document(error: KubenclaveError, *, status: int | None = None, instance: str | None = None) -> dict[str, Any]:
    """Return the members of a problem: RFC 9457's, and ours as ``as_dict`` spells them.

    ``type`` is about:blank, ``code`` tells problems apart; ``instance`` is the id of the request.
    """
    number = status_of(error) if status is None else status
    own = error.as_dict()
    problem = {"type": "about:blank", "title": own.pop("message"), "status": number, **own}
    return problem if instance is None else {**problem, "instance": f"urn:kubenclave:request:{instance}"}


def problem(
    error: KubenclaveError, *, instance: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the answer to a request that failed."""
    status = status_of(error)
    body = json.dumps(document(error, status=status, instance=instance), separators=(",", ":")).encode()
    return Response(body, status, headers={**headers_of(error), **(headers or {})}, media_type=CONTENT_TYPE)
