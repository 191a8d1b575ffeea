# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the collateral service is that of its routes, and no answer is another than it says."""

import schemathesis

from kubenclave.services.collateral.app import collateral_routes
from kubenclave.services.collateral.openapi import PATH
from kubenclave.services.web.credentials import Role
from tests.collateral_service import bench
from tests.openapi import ask, operations_of


def test_every_route_is_in_the_document_and_no_other(tmp_path):
    with bench(tmp_path) as served:
        document = served.call("GET", PATH).json()
        said = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
        routes = {
            (method, route.path)
            for route in collateral_routes(served.service)
            for method in (route.methods or set()) - {"HEAD"}
        }
    assert said == routes


def test_no_request_gets_an_answer_that_the_document_does_not_allow(tmp_path):
    with bench(tmp_path) as served:
        token = served.credentials.create("everything", list(Role))
        api = schemathesis.openapi.from_asgi(PATH, served.app)
        operations = operations_of(api)
        assert len(operations) > 30
        for operation in operations:
            if "/v3/" not in operation.path:  # the same functions as those of v4
                ask(operation, {"Authorization": f"Bearer {token}"}, 3)
