# SPDX-License-Identifier: Apache-2.0
"""Microsoft's Python client (azure-security-attestation) and PyJWT against the service, as their users call them."""

import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.security.attestation import (
    AttestationAdministrationClient,
    AttestationClient,
    AttestationPolicyToken,
    AttestationToken,
    AttestationTokenValidationException,
    AttestationType,
    PolicyModification,
)

from kubenclave.services.attestation.keys.store import Algorithm
from tests.azure_server import (
    Identity,
    Served,
    open_enclave_report,
    served,
    signing_identity,
    write_certificates,
)
from tests.serve_command import credential, save_platform, starting
from tests.simulated_platform import Platform

RUNTIME = b'{ "key": "of the enclave" }'
POLICY = (
    "version= 1.0;\nauthorizationrules { => permit(); };\n"
    'issuancerules { c:[type=="x-ms-sgx-svn"] => issue(type="version", value=c.value); };'
)
DENIES = (
    'version= 1.0; authorizationrules { [type=="x-ms-sgx-svn", value < 9] => deny(); => permit(); }; issuancerules {};'
)
TYPES = [AttestationType.SGX_ENCLAVE, AttestationType.OPEN_ENCLAVE]


class Static:
    """A credential that is a text, as a deployment without Azure's identities has it."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(self.token, int(time.time()) + 3600)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(service: Served) -> Iterator[AttestationClient]:
    with AttestationClient(service.url, Static("of Azure"), **trusting(service)) as made:
        yield made


@pytest.fixture
def admin(service: Served) -> Iterator[AttestationAdministrationClient]:
    with administration(service, service.admin) as made:
        yield made


def trusting(service: Served) -> dict[str, Any]:
    """What a client needs for a private CA, and to compare the issuer, which it does not by itself."""
    return {"connection_verify": str(service.ca), "validate_issuer": True, "issuer": service.url, "retry_total": 0}


def administration(service: Served, token: str) -> AttestationAdministrationClient:
    return AttestationAdministrationClient(service.url, Static(token), **trusting(service))


def keys_of(client: AttestationClient) -> list[str]:
    return [signer.key_id for signer in client.get_signing_certificates()]


@pytest.mark.parametrize("held", ["runtime_data", "runtime_json"])
@pytest.mark.parametrize("kind", TYPES)
def test_attest(service: Served, client: AttestationClient, kind: AttestationType, held: str):
    quote = service.quote(RUNTIME)
    if kind is AttestationType.SGX_ENCLAVE:
        result, token = client.attest_sgx_enclave(quote, **{held: RUNTIME})
    else:
        result, token = client.attest_open_enclave(open_enclave_report(quote), **{held: RUNTIME})
    assert result.issuer == service.url
    assert (result.mr_enclave, result.product_id, result.svn) == ("a9" * 32, 7, 3)
    assert (result.is_debuggable, result.version, result.verifier_type) == (False, "1.0", "sgx")
    assert result.enclave_held_data == (RUNTIME if held == "runtime_data" else None)
    assert result.runtime_claims == (None if held == "runtime_data" else json.loads(RUNTIME))
    assert result.policy_claims["sgx-mrenclave"] == "a9" * 32
    assert result.sgx_collateral["quotehash"] == hashlib.sha256(quote).hexdigest()
    assert token.algorithm == "RS256"
    assert token.key_url == f"{service.url}/certs"
    assert token.key_id in keys_of(client)


def test_a_token_passes_pyjwt_which_fetches_the_keys_itself(service: Served, client: AttestationClient):
    token = client.attest_sgx_enclave(service.quote())[1].to_jwt_string()
    keys = jwt.PyJWKClient(f"{service.url}/certs", ssl_context=ssl.create_default_context(cafile=str(service.ca)))
    key = keys.get_signing_key_from_jwt(token)
    claims = jwt.decode(
        token, key, algorithms=["RS256"], issuer=service.url, options={"require": ["exp", "nbf", "jti"]}
    )
    assert claims["exp"] - claims["iat"] == 28_800
    assert claims["nbf"] == claims["iat"]
    assert claims["kubenclave"]["simulated"] is True
    tampered = token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(tampered, key, algorithms=["RS256"])


def test_the_client_would_notice_another_issuer(service: Served, client: AttestationClient):
    with pytest.raises(AttestationTokenValidationException, match="not the expected issuer"):
        client.attest_sgx_enclave(service.quote(), issuer="https://elsewhere.example")


def test_over_plain_http(tmp_path: Path):
    with (
        served(tmp_path, tls=False) as service,
        AttestationClient(service.url, Static("x"), authentication_policy=SansIOHTTPPolicy()) as client,
    ):
        assert client.attest_sgx_enclave(service.quote())[0].issuer == service.url
        with AttestationAdministrationClient(service.url, Static(service.admin)) as admin:
            result, _ = admin.set_policy(AttestationType.SGX_ENCLAVE, POLICY, enforce_https=False)
            assert result.policy_resolution == PolicyModification.UPDATED


def test_discovery(service: Served, client: AttestationClient):
    metadata = client.get_open_id_metadata()
    assert metadata["issuer"] == service.url
    assert metadata["jwks_uri"] == f"{service.url}/certs"
    assert "x-ms-sgx-report-data" in metadata["claims_supported"]


def test_wrong_runtime_data_is_a_clear_error(service: Served, client: AttestationClient):
    with pytest.raises(HttpResponseError) as caught:
        client.attest_sgx_enclave(service.quote(RUNTIME), runtime_data=b"something else")
    assert (caught.value.status_code, code_of(caught.value)) == (400, "InvalidParameter")
    assert "the quote does not speak of the runtime data" in str(caught.value)


@pytest.mark.parametrize("kind", [*TYPES, "TdxVm"])
def test_policies_are_read_set_and_reset(
    admin: AttestationAdministrationClient, client: AttestationClient, service: Served, kind: Any
):
    default = admin.get_policy(kind)[0]
    assert default.startswith("version= 1.")
    result, _ = admin.set_policy(kind, POLICY)
    assert result.policy_resolution == PolicyModification.UPDATED
    assert result.policy_token_hash == hashlib.sha256(AttestationPolicyToken(POLICY).to_jwt_string().encode()).digest()
    assert admin.get_policy(kind)[0] == POLICY
    if kind is AttestationType.SGX_ENCLAVE:
        attested, _ = client.attest_sgx_enclave(service.quote())
        assert attested.policy_claims == {"version": 3}
    result, _ = admin.reset_policy(kind)
    assert (result.policy_resolution, result.policy_token_hash) == (PolicyModification.REMOVED, None)
    assert admin.get_policy(kind)[0] == default


def test_a_policy_that_denies(admin: AttestationAdministrationClient, client: AttestationClient, service: Served):
    admin.set_policy(AttestationType.SGX_ENCLAVE, DENIES)
    with pytest.raises(HttpResponseError) as caught:
        client.attest_sgx_enclave(service.quote())
    assert code_of(caught.value) == "PolicyEvaluationError"
    report = open_enclave_report(service.quote())
    assert client.attest_open_enclave(report)[0].svn == 3, "that type has a policy of its own"


def test_signed_policies(admin: AttestationAdministrationClient, client: AttestationClient, service: Served):
    signer = signing_identity()  # RSA: with any other key this client fails by itself
    signing = {"signing_key": signer.key, "signing_certificate": signer.certificate}
    result, _ = admin.set_policy(AttestationType.SGX_ENCLAVE, POLICY, **signing)
    assert without_newlines(result.policy_signer.certificates) == without_newlines([signer.certificate])
    attested, _ = client.attest_sgx_enclave(service.quote())
    assert without_newlines(attested._policy_signer.certificates) == without_newlines([signer.certificate])
    assert admin.reset_policy(AttestationType.SGX_ENCLAVE, **signing)[0].policy_resolution == PolicyModification.REMOVED


def test_certificates_of_policy_signers(admin: AttestationAdministrationClient):
    first, second = signing_identity("first"), signing_identity("second")
    assert admin.get_policy_management_certificates()[0] == []
    for each in (first, second):
        result, _ = admin.add_policy_management_certificate(each.certificate, **signed_by(first))
        assert result.certificate_resolution == "IsPresent"
    listed = admin.get_policy_management_certificates()[0]
    assert without_newlines([chain[0] for chain in listed]) == without_newlines([first.certificate, second.certificate])
    result, _ = admin.remove_policy_management_certificate(first.certificate, **signed_by(second))
    assert result.certificate_resolution == "IsAbsent"
    with pytest.raises(HttpResponseError, match="last policy signer"):
        admin.remove_policy_management_certificate(second.certificate, **signed_by(second))


def test_nobody_changes_policies_without_being_allowed_to(service: Served):
    with administration(service, "of Azure") as admin:
        signer = signing_identity()
        for forbidden in (
            lambda: admin.set_policy(AttestationType.SGX_ENCLAVE, POLICY),
            lambda: admin.set_policy(AttestationType.SGX_ENCLAVE, POLICY, **signed_by(signer)),
            lambda: admin.reset_policy(AttestationType.SGX_ENCLAVE),
            lambda: admin.get_policy(AttestationType.SGX_ENCLAVE),
            lambda: admin.add_policy_management_certificate(signer.certificate, **signed_by(signer)),
            admin.get_policy_management_certificates,
        ):
            with pytest.raises(ClientAuthenticationError) as caught:
                forbidden()
            assert code_of(caught.value) == "Unauthorized"
    assert service.policies_set() == 0


def test_draft_policies_are_refused_unless_the_operator_lets_them(client: AttestationClient, service: Served):
    with pytest.raises(HttpResponseError) as caught:
        client.attest_sgx_enclave(service.quote(), draft_policy=POLICY)
    assert code_of(caught.value) == "InvalidOperation"


def test_draft_policies_get_unsigned_tokens_of_another_issuer(tmp_path: Path):
    with (
        served(tmp_path, dangerously_allow_draft_policies=True) as service,
        AttestationClient(service.url, Static("x"), connection_verify=str(service.ca)) as client,
    ):
        for draft in (POLICY, AttestationPolicyToken(POLICY).to_jwt_string()):
            result, token = client.attest_sgx_enclave(service.quote(), draft_policy=draft)
            assert token.algorithm == "none"
            assert result.policy_claims == {"version": 3}
            assert result.issuer == f"{service.url}/draft-policy"
        with pytest.raises(HttpResponseError) as caught:
            client.attest_sgx_enclave(service.quote(), draft_policy="version= 1.0; authorizationrules { permit };")
        assert code_of(caught.value) == "PolicyParsingError"


def test_a_client_that_kept_the_keys_goes_on_after_a_rollover(service: Served, client: AttestationClient):
    client.attest_sgx_enclave(service.quote())
    waiting = service.service.keyring.rotate(Algorithm.RS256)
    assert waiting.kid in keys_of(client)
    assert isinstance(client.attest_sgx_enclave(service.quote())[1], AttestationToken)


def code_of(error: HttpResponseError) -> str | None:
    assert error.error is not None, "the client could read the error"
    return error.error.code


def signed_by(identity: Identity) -> dict[str, str]:
    return {"signing_key": identity.key, "signing_certificate": identity.certificate}


def without_newlines(certificates: list[str]) -> list[str]:
    return [each.replace("\n", "") for each in certificates]


def test_against_the_command_with_two_workers(tmp_path: Path):
    server = write_certificates(tmp_path)
    platform = Platform.ready()
    tls = ("--tls-cert", server, "--tls-key", server)
    with starting(tmp_path, save_platform(tmp_path / "platform")) as start:
        running = start("--open", "--workers", 2, *tls)
        url = f"https://localhost:{urlsplit(running.url).port}"
        issuer = running.ready["issuer"]
        token = credential(tmp_path / "state", "create", "ops", "--role", "policy-admin")["token"]
        options = {"connection_verify": str(tmp_path / "ca.pem"), "validate_issuer": True, "issuer": issuer}
        base = url + urlsplit(issuer).path
        with AttestationAdministrationClient(base, Static(token), **options) as admin:
            admin.set_policy(AttestationType.SGX_ENCLAVE, POLICY)
        for _ in range(6):  # connections of its own each, for whichever worker takes them
            with AttestationClient(base, Static("x"), **options) as client:
                assert client.attest_sgx_enclave(platform.quote())[0].policy_claims == {"version": 3}


def test_the_guides_example_runs(service: Served, tmp_path: Path):
    guide = (Path(__file__).parents[2] / "docs" / "azure-attestation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```py\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    (tmp_path / "quote.bin").write_bytes(service.quote())
    done = subprocess.run(
        [sys.executable, "-c", example.replace("https://attest.example", service.url)],
        cwd=tmp_path,
        env={**os.environ, "KUBENCLAVE_TOKEN": service.admin},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["a9" * 32, "3"], done.stderr
