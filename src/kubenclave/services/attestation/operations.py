# SPDX-License-Identifier: Apache-2.0
"""What the attestation service can be asked for, as its OpenAPI document lists it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.services.attestation.policies import TEE_TYPES
from kubenclave.services.attestation.policy_routes import (
    DiffRequest,
    DryRunRequest,
    ResetPolicyRequest,
    SetPolicyRequest,
)
from kubenclave.services.attestation.release_routes import ReleaseRequest, SecretRequest
from kubenclave.services.attestation.requests import AttestRequest, BatchRequest, VerifyRequest
from kubenclave.services.web.credentials import Role

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    ``request``: the structure that reads its JSON body; ``body``: content of one that is read otherwise.
    ``answer``: schema of the good answer, whose media type and status follow. ``open``: the role may be everybody's.
    """

    method: str
    path: str
    name: str
    summary: str
    tag: str
    role: Role | None = None
    open: bool = False
    request: type | None = None
    body: Schema | None = None
    query: Sequence[Schema] = ()
    answer: Schema | None = None
    media: str = "application/json"
    status: int = 200


def members(*required: str, **properties: Schema) -> dict[str, Any]:
    """Return the schema of an object with members of these types; further ones may come."""
    return {"type": "object", "required": list(required or properties), "properties": properties}


def ref(name: str) -> dict[str, Any]:
    """Return a reference to one of ``SCHEMAS``."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(schema: Schema) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": schema}


TEXT: Final[Schema] = {"type": "string"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
HEX: Final[Schema] = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
ANY_OBJECT: Final[Schema] = {"type": "object"}
POLICY: Final[Schema] = {
    **members(name=TEXT, format=TEXT, version=COUNT, digest=HEX),
    "type": ["object", "null"],
    "description": "Null where no policy said which enclave was wanted",
}
VERDICT: Final = members(
    accepted=FLAG,
    appraised=FLAG,
    simulated=FLAG,
    tcb_status=TEXT,
    advisories=listed(TEXT),
    relaxations=listed(TEXT),
    verified_at=TIME,
    earliest_expiration=TIME,
    collateral=HEX,
    quote=ANY_OBJECT,
)
_JUDGED: Final[dict[str, Schema]] = {
    "verdict": ref("Verdict"),
    "fresh": FLAG,
    "relaxations": listed(TEXT),
    "issued": ANY_OBJECT,
    "policy": ref("Policy"),
}
STORED_POLICY: Final[dict[str, Schema]] = {
    "tee_type": {"enum": list(TEE_TYPES)},
    "version": COUNT,
    "format": TEXT,
    "name": TEXT,
    "digest": HEX,
    "signer": {"type": ["object", "null"]},
    "default": FLAG,
    "created": {"type": ["string", "null"], "format": "date-time"},
    "by": TEXT,
}
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
ATTESTED: Final = members(*_JUDGED, "receipt", token=TEXT, receipt=ref("Receipt"), **_JUDGED)
SCHEMAS: Final[Mapping[str, Schema]] = {
    "Problem": PROBLEM,
    "AzureError": members(error=members("code", "message", code=TEXT, message=TEXT)),
    "Verdict": VERDICT,
    "Policy": POLICY,
    "Judged": members(**_JUDGED),
    "Receipt": members(index=COUNT, leaf_hash=HEX, tree_size=COUNT, entry=TEXT, proof=TEXT),
    "Attested": ATTESTED,
    "Batch": members(items=listed({"anyOf": [ref("Attested"), members(problem=ref("Problem"))]})),
    "StoredPolicy": members(**STORED_POLICY),
    "PolicyWithText": members(**STORED_POLICY, text=TEXT),
    "KeySet": members(keys=listed(members("kty", "kid", "alg", "use", "x5c", kty=TEXT, kid=TEXT, alg=TEXT))),
    "SigningKey": members(
        "kid", "algorithm", "state", "created", kid=TEXT, algorithm=TEXT, state=TEXT, created=TIME, jwk=ANY_OBJECT
    ),
    "Secret": members("name", "version", name=TEXT, version=COUNT),
    "Token": members(token=TEXT),
}
_JWKS: Final = "application/jwk-set+json"
_PLAIN: Final = "text/plain"


def _number(name: str, *, required: bool = True) -> Schema:
    schema = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}
    return {"name": name, "in": "query", "required": required, "schema": schema}


NATIVE: Final = (
    Operation(
        method="POST",
        path="/v1/challenge",
        name="challenge",
        summary="Get a nonce for one request",
        tag="attestation",
        role=Role.ATTEST,
        open=True,
        answer=members(nonce=TEXT, expires=TIME),
    ),
    Operation(
        method="POST",
        path="/v1/attest",
        name="attest",
        summary="Have evidence judged and get a token",
        tag="attestation",
        role=Role.ATTEST,
        open=True,
        request=AttestRequest,
        answer=ref("Attested"),
    ),
    Operation(
        method="POST",
        path="/v1/attest/batch",
        name="attestBatch",
        summary="Have several pieces of evidence judged, each by itself",
        tag="attestation",
        role=Role.ATTEST,
        open=True,
        request=BatchRequest,
        answer=ref("Batch"),
    ),
    Operation(
        method="POST",
        path="/v1/verify",
        name="verify",
        summary="Have evidence judged without token and log",
        tag="attestation",
        role=Role.ATTEST,
        open=True,
        request=VerifyRequest,
        answer=ref("Judged"),
    ),
    Operation(
        method="GET",
        path="/v1/certs",
        name="certs",
        summary="Keys of tokens signed with ES256",
        tag="attestation",
        answer=ref("KeySet"),
        media=_JWKS,
    ),
    Operation(
        method="GET",
        path="/v1/openapi.json",
        name="openapi",
        summary="This document",
        tag="attestation",
        answer=ANY_OBJECT,
    ),
)
_POLICY: Final = "/v1/policies/{type}"
POLICIES: Final = (
    Operation(
        method="GET",
        path=_POLICY,
        name="getPolicy",
        summary="The policy in force",
        tag="policies",
        role=Role.ATTEST,
        open=True,
        answer=ref("PolicyWithText"),
    ),
    Operation(
        method="PUT",
        path=_POLICY,
        name="setPolicy",
        summary="Put a policy in force",
        tag="policies",
        role=Role.POLICY_ADMIN,
        request=SetPolicyRequest,
        answer=ref("StoredPolicy"),
    ),
    Operation(
        method="POST",
        path=f"{_POLICY}/reset",
        name="resetPolicy",
        summary="Put the default in force again",
        tag="policies",
        role=Role.POLICY_ADMIN,
        request=ResetPolicyRequest,
        answer=ref("StoredPolicy"),
    ),
    Operation(
        method="GET",
        path=f"{_POLICY}/history",
        name="policyHistory",
        summary="The latest versions",
        tag="policies",
        role=Role.ATTEST,
        open=True,
        answer=members(versions=listed(ref("StoredPolicy"))),
    ),
    Operation(
        method="GET",
        path=f"{_POLICY}/versions/{{version}}",
        name="policyVersion",
        summary="One version",
        tag="policies",
        role=Role.ATTEST,
        open=True,
        answer=ref("PolicyWithText"),
    ),
    Operation(
        method="POST",
        path=f"{_POLICY}/dry-run",
        name="dryRun",
        summary="Try a policy on evidence that was kept",
        tag="policies",
        role=Role.POLICY_ADMIN,
        request=DryRunRequest,
        answer=members(evidence=COUNT, accepted=COUNT, refused=COUNT, codes=ANY_OBJECT, pieces=listed(ANY_OBJECT)),
    ),
    Operation(
        method="POST",
        path=f"{_POLICY}/diff",
        name="diffPolicies",
        summary="Compare two policies on evidence that was kept",
        tag="policies",
        role=Role.POLICY_ADMIN,
        request=DiffRequest,
        answer=members(evidence=COUNT, changes=ANY_OBJECT, pieces=listed(ANY_OBJECT)),
    ),
)
KEYS: Final = (
    Operation(
        method="GET",
        path="/v1/keys",
        name="listKeys",
        summary="All signing keys that ever were",
        tag="keys",
        role=Role.KEY_ADMIN,
        answer=members(keys=listed(ref("SigningKey"))),
    ),
    Operation(
        method="POST",
        path="/v1/keys/{algorithm}/rotate",
        name="rotateKey",
        summary="Publish the next key",
        tag="keys",
        role=Role.KEY_ADMIN,
        answer=ref("SigningKey"),
    ),
    Operation(
        method="POST",
        path="/v1/keys/{kid}/revoke",
        name="revokeKey",
        summary="Withdraw a key at once, with all its tokens",
        tag="keys",
        role=Role.KEY_ADMIN,
        answer=ref("SigningKey"),
    ),
)
LOG: Final = (
    Operation(
        method="GET",
        path="/v1/log/head",
        name="logHead",
        summary="Signed head of the log",
        tag="log",
        role=Role.ATTEST,
        open=True,
        answer=members(origin=TEXT, size=COUNT, root=HEX, note=TEXT, key=TEXT),
    ),
    Operation(
        method="GET",
        path="/v1/log/checkpoint",
        name="logCheckpoint",
        summary="The head as a signed note (C2SP tlog-checkpoint)",
        tag="log",
        role=Role.ATTEST,
        open=True,
        answer=TEXT,
        media=_PLAIN,
    ),
    Operation(
        method="GET",
        path="/v1/log/entries",
        name="logEntries",
        summary="A page of entries",
        tag="log",
        role=Role.ATTEST,
        open=True,
        query=(_number("start", required=False), _number("end", required=False)),
        answer=members(size=COUNT, start=COUNT, entries=listed(TEXT)),
    ),
    Operation(
        method="GET",
        path="/v1/log/proof/inclusion",
        name="logInclusion",
        summary="Proof that an entry is in the log",
        tag="log",
        role=Role.ATTEST,
        open=True,
        query=(_number("index"), _number("size", required=False)),
        answer=members(index=COUNT, size=COUNT, proof=listed(HEX)),
    ),
    Operation(
        method="GET",
        path="/v1/log/proof/consistency",
        name="logConsistency",
        summary="Proof that the log only grew",
        tag="log",
        role=Role.ATTEST,
        open=True,
        query=(_number("first"), _number("second", required=False)),
        answer=members(first=COUNT, second=COUNT, proof=listed(HEX)),
    ),
    Operation(
        method="GET",
        path="/v1/log/tile/{path}",
        name="logTile",
        summary="A tile of the log (C2SP tlog-tiles)",
        tag="log",
        role=Role.ATTEST,
        open=True,
        answer={"type": "string", "contentMediaType": "application/octet-stream"},
        media="application/octet-stream",
    ),
)
RELEASE: Final = (
    Operation(
        method="POST",
        path="/v1/release",
        name="release",
        summary="Get a secret, encrypted to the key that evidence binds",
        tag="release",
        role=Role.ATTEST,
        open=True,
        request=ReleaseRequest,
        answer=members("secret", "version", "jwe", "receipt", secret=TEXT, version=COUNT, jwe=TEXT),
    ),
    Operation(
        method="GET",
        path="/v1/secrets",
        name="listSecrets",
        summary="Secrets without their values",
        tag="release",
        role=Role.RELEASE_ADMIN,
        answer=members(secrets=listed(ref("Secret"))),
    ),
    Operation(
        method="PUT",
        path="/v1/secrets/{name}",
        name="putSecret",
        summary="Keep a secret for enclaves that the policy in force accepts",
        tag="release",
        role=Role.RELEASE_ADMIN,
        request=SecretRequest,
        answer=ref("Secret"),
    ),
    Operation(
        method="DELETE",
        path="/v1/secrets/{name}",
        name="deleteSecret",
        summary="Delete a secret",
        tag="release",
        role=Role.RELEASE_ADMIN,
        status=204,
    ),
)
OPERATIONS: Final = (*NATIVE, *POLICIES, *KEYS, *LOG, *RELEASE)
