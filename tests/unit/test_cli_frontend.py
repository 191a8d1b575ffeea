# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that serve, and the credentials that their operators make."""

import json

import click
import pytest

from kubenclave.cli.frontend import Address
from kubenclave.cli.main import run
from kubenclave.cli.trust import SourceName
from kubenclave.services.database import Database
from kubenclave.services.web.credentials import Credentials, Role
from tests.clock import Clock


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:0", ("::1", 0)),
        (":8443", ("", 8443)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(text, pair):
    assert Address().convert(text, None, None) == pair
    assert Address().convert(pair, None, None) == pair


@pytest.mark.parametrize("text", ["", "80", "a:b", "a:65536", "a:-1", "a:٣", "a:"])
def test_what_is_no_address(text):
    with pytest.raises(click.BadParameter):
        Address().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("intel", ("intel", "")),
        ("thim", ("thim", "")),
        ("pccs=https://a.example:8081", ("pccs", "https://a.example:8081")),
        ("dir=/a=b", ("dir", "/a=b")),
        ("simulated=x", ("simulated", "x")),
    ],
)
def test_sources(text, pair):
    assert SourceName().convert(text, None, None) == pair
    assert SourceName().convert(pair, None, None) == pair


@pytest.mark.parametrize("text", ["", "pccs", "pccs=", "intel=x", "file=x", "Intel"])
def test_what_is_no_source(text):
    with pytest.raises(click.BadParameter):
        SourceName().convert(text, None, None)


@pytest.fixture(params=["attestation.db", "collateral.db"])
def state(request, tmp_path):
    """State directory of a service that has run: the attestation service's, or that of a collateral service alone."""
    database = Database(tmp_path / request.param)
    Credentials(database, Clock())
    database.close()
    return tmp_path, request.param


def said(capsys, *words):
    code = run([*map(str, words), "--output", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_token_is_made_once_listed_without_its_secret_and_revoked(state, capsys):
    directory, name = state
    code, made = said(
        capsys, "attest", "credential", "create", "ops", "--role", "attest", "--role", "register", "--expires", "1d",
        "--state", directory,
    )  # fmt: skip
    assert (code, made["roles"]) == (0, ["attest", "register"])
    database = Database(directory / name)
    assert Credentials(database, Clock()).check(Role.ATTEST, made["token"]).name == "ops"
    database.close()
    code, shown = said(capsys, "attest", "credential", "list", "--state", directory)
    assert [(each["name"], each["kind"]) for each in shown["credentials"]] == [("ops", "token")]
    assert made["token"] not in json.dumps(shown)
    assert run(["attest", "credential", "list", "--state", str(directory)]) == 0
    assert "ops" in capsys.readouterr().out
    assert said(capsys, "attest", "credential", "revoke", "ops", "--state", directory)[0] == 0
    code, answer = said(capsys, "attest", "credential", "revoke", "ops", "--state", directory)
    assert (code, answer["error"]["code"]) == (2, "credentials.unknown-name")


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\ngarbage\n"])
def test_what_is_no_certificate_is_not_trusted(state, capsys, content):
    directory, _ = state
    (directory / "c.crt").write_bytes(content)
    words = ["attest", "credential", "trust", "ci", "--role", "attest", "--certificate", directory / "c.crt"]
    code, answer = said(capsys, *words, "--state", directory)
    assert (code, answer["error"]["code"]) == (3, "credentials.certificate")


def test_a_directory_in_which_no_service_has_run_gets_no_credentials(tmp_path, capsys):
    code, answer = said(capsys, "attest", "credential", "list", "--state", tmp_path)
    assert (code, answer["error"]["code"]) == (2, "cli.input")
    assert list(tmp_path.iterdir()) == []


def test_new_tokens_are_new(capsys):
    tokens = {said(capsys, "attest", "credential", "new")[1]["token"] for _ in range(3)}
    assert len(tokens) == 3
