# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document is that of the routes, and no answer is another than it says."""

import re

import schemathesis
from starlette.routing import Route

from kubenclave.services.attestation.app import attestation_routes
from kubenclave.services.web.credentials import Role
from tests.attestation_service import attestation, bench
from tests.openapi import ask, operations_of

__all__ = ["attestation"]


def test_every_route_is_in_the_document_and_no_other(attestation):
    document = attestation.get("/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    said = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    routes = [route for route in attestation_routes(attestation.service) if isinstance(route, Route)]
    native = {
        (method, re.sub(r":\w+}", "}", route.path))
        for route in routes
        if route.path.startswith("/v1/")
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert {each for each in said if each[1].startswith("/v1/")} == native
    paths = {route.path for route in routes}
    assert {path for _, path in said if not path.startswith("/v1/")} <= paths


def test_requests_are_described_by_what_reads_them(attestation):
    schema = attestation.get("/v1/openapi.json").json()["components"]["schemas"]["AttestRequest"]
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) >= {"quote", "ra_tls_certificate", "runtime_data", "challenge", "token"}


def test_no_request_gets_an_answer_that_the_document_does_not_allow(tmp_path):
    with bench(tmp_path / "state", keep_evidence=4) as served:
        api = schemathesis.openapi.from_asgi("/simulated/v1/openapi.json", served.app)
        token = served.service.credentials.create("everything", list(Role))
        headers = {"Authorization": f"Bearer {token}"}
        operations = operations_of(api)
        assert len(operations) > 25
        for operation in operations:
            ask(operation, headers)
