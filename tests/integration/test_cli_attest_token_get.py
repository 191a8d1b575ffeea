# SPDX-License-Identifier: Apache-2.0
"""kubenclave attest token get, against a service over TLS, and what the other commands make of the result."""

import json

import pytest

from kubenclave.cli import main
from kubenclave.dcap.binding import runtime_data
from kubenclave.dcap.token.compact import CompactToken
from tests.attestation_service import base64url
from tests.azure_server import served


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture
def get(service, tmp_path, capsys):
    """Run the command on a quote over the runtime data; return exit code and document."""

    def call(quote, *words):
        (tmp_path / "quote.bin").write_bytes(quote)
        where = ["--url", service.url, "--ca", str(service.ca), "--out", str(tmp_path / "token.jwt")]
        named = ["attest", "token", "get", str(tmp_path / "quote.bin"), *map(str, words), *where, "--output", "json"]
        code = main.run(named)
        printed = capsys.readouterr().out
        return code, json.loads(printed[printed.find("{\n") :])

    return call


def checked(service, tmp_path, capsys, *words):
    (tmp_path / "root.der").write_bytes(service.service.settings.root)
    named = ["attest", "token", "verify", str(tmp_path / "token.jwt"), "--issuer", service.url, "--ca", str(service.ca)]
    code = main.run([*named, "--simulated-root", str(tmp_path / "root.der"), *words, "--output", "json"])
    printed = capsys.readouterr().out
    return code, json.loads(printed[printed.find("{\n") :])


@pytest.mark.parametrize("dialect", ["ear", "ear-veraison", "azure"])
def test_a_quote_becomes_a_token_that_verifies(service, get, tmp_path, capsys, dialect):
    code, said = get(service.quote(), "--dialect", dialect, "--answer", tmp_path / "answer.json")
    assert (code, said["fresh"], said["verdict"]["tcb_status"]) == (0, False, "UpToDate")
    assert (tmp_path / "token.jwt").read_text() == said["token"]
    assert json.loads((tmp_path / "answer.json").read_text()) == said
    code, good = checked(service, tmp_path, capsys)
    assert (code, good["accepted"]) == (0, True)


def test_runtime_data_with_a_challenge_makes_it_fresh(service, get, tmp_path, capsys):
    nonce = service.service.challenges.issue().nonce
    data = runtime_data(nonce, {"kty": "EC", "crv": "P-256", "x": "x", "y": "y"})
    (tmp_path / "runtime.json").write_bytes(data)
    quote = service.quote(data)
    code, said = get(quote, "--runtime-data", tmp_path / "runtime.json", "--challenge", nonce)
    assert (code, said["fresh"]) == (0, True)
    assert checked(service, tmp_path, capsys, "--require-fresh")[0] == 0
    code, said = get(quote, "--runtime-data", tmp_path / "runtime.json", "--challenge", nonce)
    assert (code, said["error"]["code"]) == (1, "challenge.used")


def test_runtime_data_that_is_no_json_goes_as_it_is(service, get, tmp_path):
    (tmp_path / "runtime.bin").write_bytes(b"\x00\xff")
    code, said = get(service.quote(b"\x00\xff"), "--runtime-data", tmp_path / "runtime.bin", "--dialect", "azure")
    assert (code, CompactToken.parse(said["token"].encode()).claims["x-ms-sgx-ehd"]) == (0, base64url(b"\x00\xff"))
    assert (
        get(service.quote(), "--runtime-data", tmp_path / "runtime.bin")[1]["error"]["code"] == "evidence.runtime-data"
    )


def test_what_is_refused_leaves_no_token(service, get, tmp_path):
    code, said = get(b"no quote")
    assert (code, said["error"]["code"]) == (2, "format.truncated")
    code, said = get(service.quote(), "--policy-version", 77)
    assert (code, said["error"]["code"]) == (2, "request.policy-version")
    assert not (tmp_path / "token.jwt").exists()
