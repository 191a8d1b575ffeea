# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the attestation service: native API, log, key release, and Azure's routes."""

from typing import Final

from starlette.routing import Route

from kubenclave.services.attestation.azure.operations import AZURE
from kubenclave.services.attestation.operations import OPERATIONS, SCHEMAS
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web import openapi

PATH: Final = "/v1/openapi.json"


def openapi_route(service: AttestationService) -> Route:
    """Return the route of the document."""
    made = openapi.document(
        (*OPERATIONS, *AZURE),
        title="kubenclave attestation service",
        description="Judges quotes of Intel SGX and TDX, and signs what it found.",
        schemas=SCHEMAS,
        url=service.settings.issuer,
    )
    return openapi.route(PATH, made)
