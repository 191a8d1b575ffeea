# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document (3.1) of the attestation service.

Bodies of requests are described by the structures that read them (``requests``), so the two cannot differ; operations
are listed in ``operations``, and a test compares them with the routes.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave import __version__
from kubenclave.services.attestation.azure_operations import AZURE
from kubenclave.services.attestation.operations import OPERATIONS, SCHEMAS, Operation
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web import problems

PATH: Final = "/v1/openapi.json"
_REFERENCE: Final = "#/components/schemas/"
_PARAMETER: Final = re.compile(r"{(\w+)}")
_ERRORS: Final = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 502, 503)


def openapi_route(service: AttestationService) -> Route:
    """Return the route of the document. It is open to all: it says nothing of this service but its name."""
    body = json.dumps(document((*OPERATIONS, *AZURE), service.settings.issuer), separators=(",", ":")).encode()

    async def openapi(_request: Request) -> Response:
        return Response(body, headers={"Cache-Control": "max-age=300"}, media_type="application/json")

    return Route(PATH, openapi, methods=["GET"])


def document(operations: Iterable[Operation], url: str) -> dict[str, Any]:
    """Return the document for a service at that URL."""
    listed = tuple(operations)
    kinds = {each.request for each in listed if each.request is not None}
    _, schemas = msgspec.json.schema_components(
        sorted(kinds, key=lambda kind: kind.__name__), ref_template=f"{_REFERENCE}{{name}}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for each in listed:
        paths.setdefault(each.path, {})[each.method.lower()] = _described(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kubenclave attestation service",
            "version": __version__,
            "description": "Judges quotes of Intel SGX and TDX, and signs what it found.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url}],
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, **schemas},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [_in_path(name) for name in _PARAMETER.findall(operation.path)] + list(operation.query),
        "responses": _responses(operation),
    }
    if operation.role is not None:
        described["security"] = [{"token": []}, {}] if operation.open else [{"token": []}]
        described["description"] = f"Takes a credential with the role {operation.role}" + (
            ", unless the service is open to all." if operation.open else "."
        )
    if operation.request is not None:
        schema = {"$ref": _REFERENCE + operation.request.__name__}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    elif operation.body is not None:
        described["requestBody"] = {"required": True, "content": operation.body}
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    error = "AzureError" if operation.tag == "azure" else "Problem"
    media = "application/json" if operation.tag == "azure" else problems.CONTENT_TYPE
    refused = {"description": "Refused", "content": {media: {"schema": {"$ref": _REFERENCE + error}}}}
    good: dict[str, Any] = {"description": "Done"}
    if operation.answer is not None:
        good["content"] = {operation.media: {"schema": operation.answer}}
    return {str(operation.status): good, **{str(status): refused for status in _ERRORS}}


def _in_path(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = (
        {"type": "integer", "minimum": 0} if name == "version" else {"type": "string", "minLength": 1}
    )
    return {"name": name, "in": "path", "required": True, "schema": schema}
