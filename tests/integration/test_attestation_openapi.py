# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document is that of the routes, and no answer is another than it says."""

import contextlib
import re

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from kubenclave.services.attestation.app import attestation_routes
from kubenclave.services.web.credentials import Role
from tests.attestation_service import attestation, bench

__all__ = ["attestation"]

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


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
        operations = [found.ok() for found in api.get_all_operations() if isinstance(found, Ok)]
        assert len(operations) > 25
        for operation in operations:
            for mode in MODES:
                ask(operation.as_strategy(generation_mode=mode), headers)


def ask(cases, headers, examples=6):
    @given(case=cases)
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
    def each(case):
        case.call_and_validate(headers=headers, checks=CHECKS)

    with contextlib.suppress(Unsatisfiable):  # what takes nothing cannot be asked wrongly
        each()
