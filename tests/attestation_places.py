# SPDX-License-Identifier: Apache-2.0
"""Every route of the attestation service that takes JSON, with a document that it takes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubenclave.dcap.binding import report_data_over
from kubenclave.services.web.credentials import Role
from tests import ratls, simulated_platform
from tests.attestation_service import base64url
from tests.azure_server import open_enclave_report
from tests.bad_input import SPOILED, azure, native

AZURE = "?api-version=2022-08-01"
DATA = b'{"key":"value"}'
ENCLAVE = simulated_platform.Platform.ready()
QUOTE = ENCLAVE.quote(report_data_over(DATA))
RA_TLS = ratls.pem(ratls.legacy(ENCLAVE.quote)).decode()
POLICY = json.dumps({"version": 1, "name": "ours", "enclaves": [{"mr_enclave": "00" * 32}]})


@dataclass(frozen=True)
class Place:
    """A route and a document that it takes.

    ``may_lack`` are members that may be absent or null, ``takes`` are wrong values that are not wrong for a member.
    """

    method: str
    path: str
    document: Any
    shape: Callable[[Any], str]
    role: Role | None = None
    may_lack: frozenset[str] = frozenset()
    takes: frozenset[tuple[str, str]] = frozenset()

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"


TOLD = frozenset({"token", "type", "format", "tee_type", "dataType", "secret", "text"})
"""Members that are names, or the policy of the administrator who sent it: what was found in them may be said."""
HELD = {"runtime_data": {"data": base64url(DATA), "type": "JSON"}, "nonce": "12345678"}
A_NONCE = frozenset({("nonce", "a text")})
FREE = frozenset({"nonce", "pck_chain", "policy_version", "token", "runtime_data.type", "runtime_data", "init_data"})
AZURE_HELD = {"runtimeData": {"data": base64url(DATA), "dataType": "JSON"}, "nonce": "n"}
AZURE_FREE = frozenset({"runtimeData", "nonce"})
ANY_NONCE = frozenset(("nonce", kind) for kind in ("empty", "a text", "control characters", "other characters"))
PLACES = [
    Place(
        "POST", "/v1/attest", {"quote": base64url(QUOTE), **HELD, "token": "ear"}, native, may_lack=FREE, takes=A_NONCE
    ),
    Place(
        "POST",
        "/v1/attest",
        {"open_enclave_report": base64url(open_enclave_report(QUOTE)), **HELD, "policy_version": 0},
        native,
        may_lack=FREE,
        takes=A_NONCE,
    ),
    Place(
        "POST", "/v1/attest", {"ra_tls_certificate": RA_TLS, "nonce": "12345678"}, native, may_lack=FREE, takes=A_NONCE
    ),
    Place(
        "POST",
        "/v1/verify",
        {"quote": base64url(QUOTE), **HELD, "policy_version": 0},
        native,
        may_lack=FREE,
        takes=A_NONCE,
    ),
    Place("POST", "/v1/release", {"quote": base64url(QUOTE), **HELD, "secret": "none", "challenge": "x"}, native),
    Place(
        "POST",
        "/v1/attest/batch",
        {"items": [{}]},
        native,
        takes=frozenset({("items.0", kind) for kind in [*SPOILED, "missing"]}),
    ),
    Place(
        "PUT",
        "/v1/policies/SgxEnclave",
        {"text": POLICY, "format": "azure", "expected_version": 7},
        native,
        Role.POLICY_ADMIN,
        may_lack=frozenset({"expected_version"}),
    ),
    Place(
        "POST",
        "/v1/policies/SgxEnclave/reset",
        {"expected_version": 7},
        native,
        Role.POLICY_ADMIN,
        may_lack=frozenset({"expected_version"}),
        takes=frozenset({("", "nothing")}),
    ),
    Place(
        "POST",
        "/v1/policies/SgxEnclave/dry-run",
        {"policy": {"text": POLICY, "format": "kubenclave"}, "count": 5},
        native,
        Role.POLICY_ADMIN,
        may_lack=frozenset({"policy", "count", "policy.text", "policy.format"}),
        takes=frozenset({("policy", "an object"), ("count", "a number")}),
    ),
    Place(
        "POST",
        "/v1/policies/SgxEnclave/diff",
        {"first": {"version": 0}, "second": {"text": POLICY, "format": "kubenclave"}, "count": 5},
        native,
        Role.POLICY_ADMIN,
        may_lack=frozenset({"first", "first.version", "count", "second.text", "second.format"}),
        takes=frozenset({("first", "an object"), ("second", "an object"), ("count", "a number")}),
    ),
    Place(
        "PUT",
        "/v1/secrets/one",
        {"value": "AAAA", "tee_type": "SgxEnclave", "policy_version": 7, "simulated": True},
        native,
        Role.RELEASE_ADMIN,
    ),
    Place(
        "POST",
        f"/attest/SgxEnclave{AZURE}",
        {"quote": base64url(QUOTE), **AZURE_HELD},
        azure,
        None,
        AZURE_FREE,
        ANY_NONCE,
    ),
    Place(
        "POST",
        f"/attest/OpenEnclave{AZURE}",
        {"report": base64url(open_enclave_report(QUOTE)), **AZURE_HELD},
        azure,
        None,
        AZURE_FREE,
        ANY_NONCE,
    ),
    Place("POST", f"/certificates:add{AZURE}", {"policyCertificateToAdd": "a.b.c"}, azure, Role.POLICY_ADMIN),
    Place("POST", f"/certificates:remove{AZURE}", {"policyCertificateToRemove": "a.b.c"}, azure, Role.POLICY_ADMIN),
]
