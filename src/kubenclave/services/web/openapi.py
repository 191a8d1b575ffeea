# SPDX-License-Identifier: Apache-2.0
"""OpenAPI documents (3.1): operations and their schemas in, a document out.

Bodies of requests are described by the structures that read them, so the two cannot differ; operations are listed by
the services, whose tests compare them with the routes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from kubenclave import __version__
from kubenclave.services.web import problems
from kubenclave.services.web.credentials import Role

_REFERENCE: Final = "#/components/schemas/"
_PARAMETER: Final = re.compile(r"{(\w+)}")
_ERRORS: Final = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 502, 503)

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    ``role``: what its caller needs; the one to attest may be everybody's.
    ``request``: the structure that reads its JSON body; ``body``: content of one that is read otherwise.
    ``answer``: schema of the good answer, whose media type (one, or several) and status follow.
    ``errors``: schema of a refusal by media type; ``statuses``: those it may have beside the usual ones.
    """

    method: str
    path: str
    name: str
    summary: str
    _: KW_ONLY
    tag: str
    role: Role | None = None
    request: type | None = None
    body: Schema | None = None
    query: Sequence[Schema] = ()
    answer: Schema | None = None
    media: str | Sequence[str] = "application/json"
    status: int = 200
    errors: Schema | None = None
    statuses: Sequence[int] = ()


def members(*required: str, **properties: Schema) -> dict[str, Any]:
    """Return the schema of an object with members of these types; further ones may come."""
    return {"type": "object", "required": list(required or properties), "properties": properties}


def ref(name: str) -> dict[str, Any]:
    """Return a reference to a schema of the document."""
    return {"$ref": f"{_REFERENCE}{name}"}


def listed(schema: Schema) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": schema}


TEXT: Final[Schema] = {"type": "string"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
HEX: Final[Schema] = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
ANY_OBJECT: Final[Schema] = {"type": "object"}
PROBLEM: Final = members(
    "type",
    "title",
    "status",
    "code",
    type=TEXT,
    title=TEXT,
    status={"type": "integer"},
    code=TEXT,
    field=TEXT,
    expected=TEXT,
    found=TEXT,
    hint=TEXT,
    findings=listed(members(code=TEXT, field=TEXT, expected=TEXT, found=TEXT)),
    instance=TEXT,
)


def number(name: str, *, required: bool = True) -> Schema:
    """Return a parameter of the query that is a whole number."""
    schema = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}
    return {"name": name, "in": "query", "required": required, "schema": schema}


def document(
    operations: Iterable[Operation], *, title: str, description: str, schemas: Mapping[str, Schema], url: str = ""
) -> dict[str, Any]:
    """Return the document of a service, at that URL where it has one of its own."""
    listed = tuple(operations)
    kinds = {each.request for each in listed if each.request is not None}
    _, read = msgspec.json.schema_components(
        sorted(kinds, key=lambda kind: kind.__name__), ref_template=f"{_REFERENCE}{{name}}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for each in listed:
        paths.setdefault(each.path, {})[each.method.lower()] = _described(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": __version__,
            "description": description,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url or "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM, **schemas, **read},
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
        may_be_open = operation.role is Role.ATTEST
        described["security"] = [{"token": []}, {}] if may_be_open else [{"token": []}]
        described["description"] = f"Takes a credential with the role {operation.role}" + (
            ", unless the service is open to all." if may_be_open else "."
        )
    if operation.request is not None:
        content = {"application/json": {"schema": ref(operation.request.__name__)}}
        described["requestBody"] = {"required": True, "content": content}
    elif operation.body is not None:
        described["requestBody"] = {"required": True, "content": operation.body}
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    errors = operation.errors or {problems.CONTENT_TYPE: ref("Problem")}
    refused = {"description": "Refused", "content": {media: {"schema": schema} for media, schema in errors.items()}}
    good: dict[str, Any] = {"description": "Done"}
    if operation.answer is not None:
        kinds = [operation.media] if isinstance(operation.media, str) else operation.media
        good["content"] = {media: {"schema": operation.answer} for media in kinds}
    return {str(operation.status): good, **{str(status): refused for status in (*_ERRORS, *operation.statuses)}}


def _in_path(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = (
        {"type": "integer", "minimum": 0} if name == "version" else {"type": "string", "minLength": 1}
    )
    return {"name": name, "in": "path", "required": True, "schema": schema}


def route(path: str, made: Mapping[str, Any]) -> Route:
    """Return the route of a document. It is open to all: it says nothing of a service but its name."""
    body = msgspec.json.encode(made)

    async def openapi(_request: object) -> Response:
        return Response(body, headers={"Cache-Control": "max-age=300"}, media_type="application/json")

    return Route(path, openapi, methods=["GET"])
