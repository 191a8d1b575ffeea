# SPDX-License-Identifier: Apache-2.0
"""Answers of the collateral service in the form that Intel's clients depend on: statuses, headers, one-line errors.

Statuses are those of PCCS: 460 data whose integrity does not hold, 461 platform unknown, 462 no certificate for a TCB.
Whoever comes too often or too early gets 503 with ``Retry-After``: Intel's client tries again on nothing else.
"""

import datetime as dt
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from kubenclave.errors import FormatError, KubenclaveError, TrustError
from kubenclave.services.web import problems
from kubenclave.services.web.limits import waiting

ERROR_CODE: Final = "Kubenclave-Error-Code"
"""Header of an answer that is an error: the stable code of docs/errors.md."""
PEM: Final = "application/x-pem-file"
DER: Final = "application/pkix-crl"
JSON: Final = "application/json"

MAX_AGE: Final = dt.timedelta(hours=1)
"""How long a client may keep an answer: revocation lists appear about daily."""

_NO_HEADERS: Final[Mapping[str, str]] = {}
_PAUSE: Final = 10  # seconds, where an error does not say
_STATUS: Final = {
    "collateral.unknown": 404,
    "collateral.withdrawn": 410,
    "collateral.stale": 503,
    "collateral.too-long": 502,
    "pck.unknown-platform": 461,
    "pck.not-available": 462,
    "pcs.parameter": 400,
    "limits.rate": 503,
}

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def answering(handler: Handler) -> Handler:
    """Return a handler that turns errors into answers."""

    async def answer(request: Request) -> Response:
        try:
            with waiting():  # these routes do little but wait for sources
                return await handler(request)
        except KubenclaveError as error:
            return failure(request, error)

    return answer


def failure(request: Request, error: KubenclaveError) -> Response:
    """Return the answer to a request that failed: one sentence, or a problem document where ``Accept`` asks for one."""
    status = status_of(error, request.method)
    headers = {**problems.headers_of(error), ERROR_CODE: error.code, "Cache-Control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(problems.retry_after(error, _PAUSE))
    if _wants_problem(request.headers.get("accept", "")):
        body = json.dumps(problems.document(error, status=status)).encode()
        return Response(body, status, headers, problems.CONTENT_TYPE)
    sentence = f"{error}; {error.hint}" if error.hint else str(error)
    return Response(_one_line(sentence), status, headers, "text/plain")


def status_of(error: KubenclaveError, method: str) -> int:
    """Return the status of an error, in PCCS's sense.

    A GET has nothing malformed but its parameters: other such errors are about what a source sent.
    """
    if error.code in _STATUS:
        return _STATUS[error.code]
    status = problems.status_of(error)
    if status != error.http_status:
        return status  # who may do what, sizes, times: the same for all services
    if isinstance(error, TrustError):
        return 460
    if isinstance(error, FormatError) and method in {"GET", "HEAD"}:
        return 502
    return status


def cacheable(
    body: bytes, media_type: str, *, until: dt.datetime, now: dt.datetime, headers: Mapping[str, str] = _NO_HEADERS
) -> Response:
    """Return an answer that may be kept, at most until ``until``; one that has ended says so."""
    age = max(0, math.floor(min(MAX_AGE, until - now).total_seconds()))
    ended = {"Warning": '110 kubenclave "dangerously_serve_expired"'} if until < now else {}
    return Response(body, 200, {"Cache-Control": f"max-age={age}", **ended, **headers}, media_type)


def _wants_problem(accept: str) -> bool:
    asked = {each.partition(";")[0].strip().lower() for each in accept.split(",")}
    return not asked.isdisjoint({problems.CONTENT_TYPE, JSON})


def _one_line(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text) + "\n"
