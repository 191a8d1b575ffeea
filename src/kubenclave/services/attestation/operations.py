# SPDX-License-Identifier: Apache-2.0
"""What the attestation service can be asked for, as its OpenAPI document lists it."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from kubenclave.services.attestation.policies.routes import (
    DiffRequest,
    DryRunRequest,
    ResetPolicyRequest,
    SetPolicyRequest,
)
from kubenclave.services.attestation.policies.store import TEE_TYPES
from kubenclave.services.attestation.release.routes import ReleaseRequest, SecretRequest
from kubenclave.services.attestation.requests import AttestRequest, BatchRequest, VerifyRequest
from kubenclave.services.web.credentials import Role
from kubenclave.services.web.openapi import (
    ANY_OBJECT,
    COUNT,
    FLAG,
    HEX,
    TEXT,
    TIME,
    Operation,
    Schema,
    listed,
    members,
    number,
    ref,
)

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
ATTESTED: Final = members(*_JUDGED, "receipt", token=TEXT, receipt=ref("Receipt"), **_JUDGED)
SCHEMAS: Final[Mapping[str, Schema]] = {
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

_attestation = partial(Operation, tag="attestation", role=Role.ATTEST)
NATIVE: Final = (
    _attestation(
        "POST", "/v1/challenge", "challenge", "Get a nonce for one request", answer=members(nonce=TEXT, expires=TIME)
    ),
    _attestation(
        "POST",
        "/v1/attest",
        "attest",
        "Have evidence judged and get a token",
        request=AttestRequest,
        answer=ref("Attested"),
    ),
    _attestation(
        "POST",
        "/v1/attest/batch",
        "attestBatch",
        "Have several pieces of evidence judged, each by itself",
        request=BatchRequest,
        answer=ref("Batch"),
    ),
    _attestation(
        "POST",
        "/v1/verify",
        "verify",
        "Have evidence judged without token and log",
        request=VerifyRequest,
        answer=ref("Judged"),
    ),
    _attestation(
        "GET", "/v1/certs", "certs", "Keys of tokens signed with ES256", role=None, answer=ref("KeySet"), media=_JWKS
    ),
    _attestation("GET", "/v1/openapi.json", "openapi", "This document", role=None, answer=ANY_OBJECT),
)

_policy = partial(Operation, tag="policies")
_POLICY: Final = "/v1/policies/{type}"
POLICIES: Final = (
    _policy("GET", _POLICY, "getPolicy", "The policy in force", role=Role.ATTEST, answer=ref("PolicyWithText")),
    _policy(
        "PUT",
        _POLICY,
        "setPolicy",
        "Put a policy in force",
        role=Role.POLICY_ADMIN,
        request=SetPolicyRequest,
        answer=ref("StoredPolicy"),
    ),
    _policy(
        "POST",
        f"{_POLICY}/reset",
        "resetPolicy",
        "Put the default in force again",
        role=Role.POLICY_ADMIN,
        request=ResetPolicyRequest,
        answer=ref("StoredPolicy"),
    ),
    _policy(
        "GET",
        f"{_POLICY}/history",
        "policyHistory",
        "The latest versions",
        role=Role.ATTEST,
        answer=members(versions=listed(ref("StoredPolicy"))),
    ),
    _policy(
        "GET",
        f"{_POLICY}/versions/{{version}}",
        "policyVersion",
        "One version",
        role=Role.ATTEST,
        answer=ref("PolicyWithText"),
    ),
    _policy(
        "POST",
        f"{_POLICY}/dry-run",
        "dryRun",
        "Try a policy on evidence that was kept",
        role=Role.POLICY_ADMIN,
        request=DryRunRequest,
        answer=members(evidence=COUNT, accepted=COUNT, refused=COUNT, codes=ANY_OBJECT, pieces=listed(ANY_OBJECT)),
    ),
    _policy(
        "POST",
        f"{_POLICY}/diff",
        "diffPolicies",
        "Compare two policies on evidence that was kept",
        role=Role.POLICY_ADMIN,
        request=DiffRequest,
        answer=members(evidence=COUNT, changes=ANY_OBJECT, pieces=listed(ANY_OBJECT)),
    ),
)

_key = partial(Operation, tag="keys", role=Role.KEY_ADMIN)
KEYS: Final = (
    _key(
        "GET", "/v1/keys", "listKeys", "All signing keys that ever were", answer=members(keys=listed(ref("SigningKey")))
    ),
    _key("POST", "/v1/keys/{algorithm}/rotate", "rotateKey", "Publish the next key", answer=ref("SigningKey")),
    _key(
        "POST",
        "/v1/keys/{kid}/revoke",
        "revokeKey",
        "Withdraw a key at once, with all its tokens",
        answer=ref("SigningKey"),
    ),
)

_log = partial(Operation, "GET", tag="log", role=Role.ATTEST)
LOG: Final = (
    _log(
        "/v1/log/head",
        "logHead",
        "Signed head of the log",
        answer=members(origin=TEXT, size=COUNT, root=HEX, note=TEXT, key=TEXT),
    ),
    _log(
        "/v1/log/checkpoint",
        "logCheckpoint",
        "The head as a signed note (C2SP tlog-checkpoint)",
        answer=TEXT,
        media=_PLAIN,
    ),
    _log(
        "/v1/log/entries",
        "logEntries",
        "A page of entries",
        query=(number("start", required=False), number("end", required=False)),
        answer=members(size=COUNT, start=COUNT, entries=listed(TEXT)),
    ),
    _log(
        "/v1/log/proof/inclusion",
        "logInclusion",
        "Proof that an entry is in the log",
        query=(number("index"), number("size", required=False)),
        answer=members(index=COUNT, size=COUNT, proof=listed(HEX)),
    ),
    _log(
        "/v1/log/proof/consistency",
        "logConsistency",
        "Proof that the log only grew",
        query=(number("first"), number("second", required=False)),
        answer=members(first=COUNT, second=COUNT, proof=listed(HEX)),
    ),
    _log(
        "/v1/log/tile/{path}",
        "logTile",
        "A tile of the log (C2SP tlog-tiles)",
        answer={"type": "string", "contentMediaType": "application/octet-stream"},
        media="application/octet-stream",
    ),
    _log(
        "/v1/log/collateral/{digest}",
        "logCollateral",
        "Collateral that verdicts rested on, by its digest in tokens and entries",
        answer={"type": "object", "additionalProperties": TEXT},
    ),
)

_release = partial(Operation, tag="release", role=Role.RELEASE_ADMIN)
RELEASE: Final = (
    _release(
        "POST",
        "/v1/release",
        "release",
        "Get a secret, encrypted to the key that evidence binds",
        role=Role.ATTEST,
        request=ReleaseRequest,
        answer=members("secret", "version", "jwe", "receipt", secret=TEXT, version=COUNT, jwe=TEXT),
    ),
    _release(
        "GET",
        "/v1/secrets",
        "listSecrets",
        "Secrets without their values",
        answer=members(secrets=listed(ref("Secret"))),
    ),
    _release(
        "PUT",
        "/v1/secrets/{name}",
        "putSecret",
        "Keep a secret for enclaves that the policy in force accepts",
        request=SecretRequest,
        answer=ref("Secret"),
    ),
    _release("DELETE", "/v1/secrets/{name}", "deleteSecret", "Delete a secret", role=Role.RELEASE_ADMIN, status=204),
)

OPERATIONS: Final = (*NATIVE, *POLICIES, *KEYS, *LOG, *RELEASE)
