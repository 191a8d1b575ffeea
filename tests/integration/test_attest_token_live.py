# SPDX-License-Identifier: Apache-2.0
"""Tokens of a running service, over TLS: checked with our command line and with PyJWT, through a rotation."""

import base64
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from kubenclave.cli import main
from kubenclave.services.attestation.keys.store import Algorithm
from tests.azure_server import Served, served

DATA = b"a public key"


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("service")) as running:
        yield running


def attest(service: Served, dialect: str | None = None, *, debug: bool = False) -> str:
    """Attest over HTTP; by Azure's API, or by ours for a dialect of ours."""
    quote = base64.urlsafe_b64encode(service.quote(DATA, debug=debug)).decode()
    data = {"data": base64.urlsafe_b64encode(DATA).decode(), "dataType": "Binary"}
    path = "/attest/SgxEnclave?api-version=2022-08-01"
    body: dict[str, Any] = {"quote": quote, "runtimeData": data}
    if dialect is not None:
        path, body = "/v1/attest", {"quote": quote, "token": dialect}
    with httpx2.Client(verify=ssl.create_default_context(cafile=str(service.ca))) as client:
        answer = client.post(service.url + path, json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


@pytest.fixture
def verify(service, capsys, tmp_path):
    """Run ``attest token verify`` on a token; the key set is fetched."""

    def run(token: str, *more: str) -> tuple[int, dict[str, Any]]:
        path: Path = tmp_path / "token.jwt"
        path.write_text(token)
        capsys.readouterr()
        words = ["attest", "token", "verify", str(path), "--issuer", service.url, "--ca", str(service.ca)]
        code = main.run([*words, *more, "--output", "json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_a_token_of_azures_api(service, verify, tmp_path):
    root = tmp_path / "root.der"
    root.write_bytes(service.platform.issuer.root_der)
    code, document = verify(attest(service), "--simulated-root", str(root), "--max-age", "5m")
    assert (code, document["accepted"]) == (0, True), document
    assert base64.urlsafe_b64decode(document["claims"]["x-ms-sgx-ehd"]) == DATA
    assert verify(attest(service))[1]["error"]["code"] == "token.simulated"


@pytest.mark.parametrize("dialect", ["ear", "ear-veraison"])
def test_a_token_of_our_own_api(service, verify, dialect):
    code, document = verify(attest(service, dialect), "--dangerously-allow-simulated")
    assert (code, document["accepted"]) == (0, True), document
    assert document["header"]["alg"] == "ES256"
    assert document["claims"]["kubenclave"]["appraised"] is False


def test_the_authority_of_the_tls_certificate_has_to_be_known(service, capsys, tmp_path):
    path = tmp_path / "token.jwt"
    path.write_text(attest(service))
    assert main.run(["attest", "token", "verify", str(path), "--issuer", service.url]) == 4
    assert "jwks.unreachable" in capsys.readouterr().err


def test_pyjwt_follows_a_rotation(service):
    context = ssl.create_default_context(cafile=str(service.ca))
    client = jwt.PyJWKClient(f"{service.url}/certs", ssl_context=context)
    client.cooldown_duration = 0  # it would ask again after 30 seconds
    keyring = service.service.keyring
    first = attest(service)
    assert client.get_signing_key_from_jwt(first).key_id == keyring.active(Algorithm.RS256).kid
    keyring.revoke(keyring.active(Algorithm.RS256).kid)
    second = attest(service)
    key = client.get_signing_key_from_jwt(second)
    claims = jwt.decode(second, key, algorithms=["RS256"], issuer=service.url, leeway=5)
    assert claims["kubenclave"]["tcb_status"] == "UpToDate"
    kept = jwt.PyJWKClient(f"{service.url}/certs", ssl_context=context)
    with pytest.raises(jwt.PyJWKClientError):
        kept.get_signing_key_from_jwt(first)
