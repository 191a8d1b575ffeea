# SPDX-License-Identifier: Apache-2.0
"""Requests and answers of Azure's API: resources with methods, bodies, and errors in Azure's shape whatever happens.

Azure's clients decode every answer as JSON, so no error of these routes may be anything else.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kubenclave.dcap.collateral import load_json
from kubenclave.dcap.token.common import NAMESPACE
from kubenclave.errors import FormatError, KubenclaveError, PolicyError, TrustError, UnreachableError, UsageError
from kubenclave.log import fault
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web import problems
from kubenclave.wire import maa

Handler = Callable[[Request], Awaitable[Response]]

_ROOTS: Final = ("/attest/", "/policies/", "/certificates", "/tcbbaselines/", "/certs", "/.well-known/", "/revoke")
_JSON: Final = "application/json"
_STATUS: Final = {
    "maa.method": 405,
    "maa.route": 404,
    "maa.media-type": 415,
    **dict.fromkeys(("maa.signer-needed", "policy-store.unsigned", "policy-store.unknown-signer"), 403),
}
_CODES: Final = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}
_CODE_OF_ROOM: Final = {
    "azure-policy": "PolicyParsingError",
    **dict.fromkeys(("maa", "json", "evidence", "challenge", "policy", "policy-signer", "serving"), "InvalidParameter"),
}
_OF_THE_SERVICE: Final = ("collateral", "crl", "tcb-info", "qe-identity")  # rooms that speak of what we hold, not they

_log = structlog.get_logger()


class Resource:
    """ASGI endpoint of one path: a handler for each method, an error in Azure's shape for all else."""

    def __init__(self, *, get: Handler | None = None, put: Handler | None = None, post: Handler | None = None) -> None:
        handlers = {"GET": get, "HEAD": get, "PUT": put, "POST": post}
        self._handlers: Final = {method: handler for method, handler in handlers.items() if handler is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            handler = self._handlers.get(request.method)
            if handler is None:
                return self._no_such_method(request.method)
            return await handler(request)
        except KubenclaveError as error:
            return error_response(error)
        except ClientDisconnect:
            return error_response(FormatError("the client went away", code="serving.slow"))
        except Exception as error:  # noqa: BLE001 - an answer without JSON is an error of its own to Azure's clients
            _log.error("request.failed", **fault(error))
            return failed()

    def _no_such_method(self, method: str) -> Response:
        if not self._handlers:
            return error_response(UsageError("no such route", code="maa.route"))
        allowed = ", ".join(sorted(self._handlers))
        error = UsageError(
            "this route has other methods", code="maa.method", field="method", expected=allowed, found=method[:20]
        )
        return error_response(error, headers={"Allow": allowed})


NOTHING: Final = Resource()
"""Answers 404 to everything."""


def is_azure_path(path: str) -> bool:
    """Tell whether a path, under that of the issuer, is one of Azure's API: its errors have Azure's shape."""
    return path.startswith(_ROOTS)


def json_response(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a compact JSON answer."""
    body = json.dumps(document, separators=(",", ":")).encode()
    return Response(body, status, headers=headers, media_type=_JSON)


def error_response(error: KubenclaveError, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as Azure's clients read it: its code for programs, ours and the findings in ``innererror``."""
    status, code = azure_code(error)
    text = str(error) if error.hint is None else f"{error}; {error.hint}"
    document = maa.error_document(code, text, inner=error.as_dict(), target=error.field)
    more = {**problems.headers_of(error), **(headers or {}), "x-ms-error-code": code}
    if status == HTTPStatus.UNAUTHORIZED:
        more.setdefault("WWW-Authenticate", 'Bearer realm="kubenclave"')
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        more.setdefault("Retry-After", str(problems.RETRY_AFTER))
    return json_response(document, status, more)


def failed() -> Response:
    """Return the answer to a request that met a bug: what happened is in the log alone."""
    code = "InternalServerError"
    inner = {"code": "maa.failed", "message": "the service failed"}
    return json_response(maa.error_document(code, "the service failed", inner=inner), 500, {"x-ms-error-code": code})


def azure_code(error: KubenclaveError) -> tuple[int, str]:
    """Return the HTTP status and Azure's code of an error."""
    if isinstance(error, PolicyError) or error.code == "azure-policy.evaluation":
        return 400, "PolicyEvaluationError"
    room = error.code.partition(".")[0]
    if room in _OF_THE_SERVICE and isinstance(error, TrustError | UnreachableError):
        return 503, _CODES[503]
    status = _STATUS.get(error.code) or problems.status_of(error)
    if status in _CODES:
        return status, _CODES[status]
    if isinstance(error, UsageError):
        return 400, "InvalidOperation"
    if isinstance(error, FormatError | TrustError):
        return 400, _CODE_OF_ROOM.get(room, "InvalidQuote")
    return 503, _CODES[503]


def check_version(request: Request) -> str:
    """Return the ``api-version`` of a request. Raises FormatError ``maa.api-version``."""
    return maa.check_api_version(request.query_params.getlist("api-version"))


async def read_json(request: Request) -> Any:
    """Read a JSON body. Raises FormatError (``json.*``, ``maa.media-type``, ``serving.*``)."""
    kind = request.headers.get("Content-Type", _JSON).partition(";")[0].strip().lower()
    if kind != _JSON and not kind.endswith("+json"):
        raise FormatError("the body is of another type", code="maa.media-type", field="Content-Type", expected=_JSON)
    return load_json(await request.body(), "the request")


async def read_text(request: Request) -> str:
    """Read a body of text, of whatever type it is said to be. Raises FormatError ``maa.text``."""
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        raise FormatError("the body is not text", code="maa.text", field="body", expected="a JSON Web Token") from None


def signed_response(service: AttestationService, claims: Mapping[str, Any]) -> Response:
    """Return claims in a token of the service's own, as Azure answers about policies and their signers."""
    token = service.issuer.sign({**claims, NAMESPACE: {"simulated": service.settings.simulated}})
    return json_response({"token": token}, headers={"Cache-Control": "no-store"})
