# SPDX-License-Identifier: Apache-2.0
"""What Azure's API can be asked for, as the OpenAPI document lists it. Azure's own specification has the details."""

from typing import Any, Final

from kubenclave.services.web.credentials import Role
from kubenclave.services.web.openapi import (
    ANY_OBJECT,
    COUNT,
    FLAG,
    TEXT,
    Operation,
    Schema,
    listed,
    members,
    ref,
)
from kubenclave.wire.maa import API_VERSIONS, EVIDENCE_FIELDS

_VERSION: Final[Schema] = {
    "name": "api-version",
    "in": "query",
    "required": True,
    "schema": {"enum": list(API_VERSIONS)},
}
_ERRORS: Final[Schema] = {"application/json": ref("AzureError")}
_HELD: Final = members("data", data=TEXT, dataType={"enum": ["Binary", "JSON"]})
_BASELINE: Final = members(tcbIdentifier=TEXT, tcbEvaluationDataNumber=COUNT, isSelectedTcb=FLAG)
_JWT: Final[Schema] = {"text/plain": {"schema": {**TEXT, "description": "A JSON Web Token, unsecured or signed"}}}
_SIGNER: Final[Schema] = {
    "application/json": {
        "schema": {"anyOf": [TEXT, members(policyCertificateToAdd=TEXT), members(policyCertificateToRemove=TEXT)]}
    }
}


def _operation(method: str, path: str, name: str, summary: str, **more: Any) -> Operation:
    given = {"tag": "azure", "query": (_VERSION,), "answer": ref("Token"), "errors": _ERRORS, **more}
    return Operation(method=method, path=path, name=name, summary=summary, **given)


def _attest() -> Operation:
    evidence = [members(field) for field in sorted(set(EVIDENCE_FIELDS.values()))]
    request = members(
        quote=TEXT, report=TEXT, runtimeData=_HELD, initTimeData=_HELD, draftPolicyForAttestation=TEXT, nonce=TEXT
    )
    schema = {**request, "required": [], "anyOf": evidence}
    return _operation(
        "POST",
        "/attest/{type}",
        "azureAttest",
        "Have evidence judged and get a token in Azure's dialect",
        role=Role.ATTEST,
        body={"application/json": {"schema": schema}},
    )


AZURE: Final = (
    _attest(),
    _operation("GET", "/certs", "azureCerts", "Keys of tokens signed with RS256", query=(), answer=ref("KeySet")),
    _operation("GET", "/.well-known/openid-configuration", "azureDiscovery", "Discovery", query=(), answer=ANY_OBJECT),
    _operation(
        "GET",
        "/tcbbaselines/{type}",
        "azureBaselines",
        "Generations of collateral",
        role=Role.ATTEST,
        answer=members(tcbBaselines=listed(_BASELINE)),
    ),
    _operation("GET", "/policies/{type}", "azureGetPolicy", "The policy in force", role=Role.POLICY_ADMIN),
    _operation("PUT", "/policies/{type}", "azureSetPolicy", "Put a policy in force", role=Role.POLICY_ADMIN, body=_JWT),
    _operation(
        "POST", "/policies/{type}:reset", "azureResetPolicy", "The default again", role=Role.POLICY_ADMIN, body=_JWT
    ),
    _operation("GET", "/certificates", "azureSigners", "Signers of policies", role=Role.POLICY_ADMIN),
    _operation(
        "POST", "/certificates:add", "azureAddSigner", "Register a signer", role=Role.POLICY_ADMIN, body=_SIGNER
    ),
    _operation(
        "POST", "/certificates:remove", "azureRemoveSigner", "Forget a signer", role=Role.POLICY_ADMIN, body=_SIGNER
    ),
)
