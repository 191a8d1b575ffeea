# SPDX-License-Identifier: Apache-2.0
"""Tokens and client certificates of a service: shown once, kept hashed, refused once revoked or ended."""

import asyncio
import datetime as dt
import json
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from starlette.requests import Request

from kubenclave.errors import FormatError, KubenclaveError, TrustError, UsageError
from kubenclave.services.database import Database
from kubenclave.services.web import credentials as module
from kubenclave.services.web.credentials import CredentialKind, Credentials, Role, adopt_file, new_token
from kubenclave.services.web.guard import Guard
from tests.clock import START, Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path / "credentials.db")
    yield opened
    opened.close()


@pytest.fixture
def credentials(database, clock):
    return Credentials(database, clock)


def certificate(key=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), START, START)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def refusal(call):
    with pytest.raises(TrustError) as caught:
        call()
    return caught.value.code


def test_a_token_allows_its_roles_and_no_other(credentials):
    token = credentials.create("ops", [Role.POLICY_ADMIN, Role.ATTEST])
    assert credentials.check(Role.POLICY_ADMIN, token).name == "ops"
    assert credentials.check(Role.ATTEST, token).roles == {Role.POLICY_ADMIN, Role.ATTEST}
    assert refusal(lambda: credentials.check(Role.KEY_ADMIN, token)) == "credentials.role"


def test_the_secret_of_a_token_is_not_in_the_database(credentials, database, tmp_path):
    token = credentials.create("ops", [Role.ATTEST])
    database.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert token[-43:].encode() not in kept
    assert token[11:27].encode() in kept


@pytest.mark.parametrize("wrong", ["x", "kubenclave_", "kubenclave_0011223344556677_" + "A" * 43, "é" * 70])
def test_what_is_no_token_of_ours_is_unknown(credentials, wrong):
    assert refusal(lambda: credentials.check(Role.ATTEST, wrong)) == "credentials.unknown"


@pytest.mark.parametrize("nothing", [None, ""])
def test_who_shows_nothing_is_told_what_is_missing(credentials, nothing):
    assert refusal(lambda: credentials.check(Role.ATTEST, nothing)) == "credentials.missing"


def test_another_secret_with_the_same_id_is_refused(credentials):
    token = credentials.create("ops", [Role.ATTEST])
    other = token[:-2] + ("AA" if token[-2:] != "AA" else "BA")
    assert refusal(lambda: credentials.check(Role.ATTEST, other)) == "credentials.unknown"


def test_a_revoked_token_is_refused_also_where_it_was_remembered(credentials, database, clock):
    token = credentials.create("ops", [Role.ATTEST])
    assert credentials.check(Role.ATTEST, token).name == "ops"
    Credentials(database, clock).revoke("ops")  # another process
    assert refusal(lambda: credentials.check(Role.ATTEST, token)) == "credentials.unknown"


def test_a_token_ends(credentials, clock):
    token = credentials.create("ops", [Role.ATTEST], expires=START + dt.timedelta(days=1))
    assert credentials.check(Role.ATTEST, token)
    clock.time += dt.timedelta(days=1)
    assert refusal(lambda: credentials.check(Role.ATTEST, token)) == "credentials.unknown"


def test_a_token_costs_one_scrypt_however_often_it_comes(credentials, monkeypatch):
    tokens = [credentials.create(f"ops{number}", [Role.ATTEST]) for number in range(3)]
    calls, scrypt = [], module._scrypt

    def counted(secret, salt):
        calls.append(secret)
        return scrypt(secret, salt)

    monkeypatch.setattr(module, "_scrypt", counted)
    for token in tokens * 3:
        credentials.check(Role.ATTEST, token)
    assert len(calls) == 3


def test_what_is_remembered_is_bounded(credentials, monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 1)
    tokens = [credentials.create(f"ops{number}", [Role.ATTEST]) for number in range(3)]
    for token in tokens:
        assert credentials.check(Role.ATTEST, token)
    assert len(credentials._good) == 1


def test_a_certificate_is_known_by_its_key(credentials):
    key = ec.generate_private_key(ec.SECP256R1())
    credentials.trust("ca-user", [Role.RELEASE_ADMIN], certificate(key))
    assert credentials.check_certificate(Role.RELEASE_ADMIN, certificate(key)).name == "ca-user"  # renewed
    assert refusal(lambda: credentials.check_certificate(Role.RELEASE_ADMIN, certificate())) == "credentials.unknown"
    assert refusal(lambda: credentials.check_certificate(Role.ATTEST, certificate(key))) == "credentials.role"
    with pytest.raises(FormatError) as caught:
        credentials.check_certificate(Role.ATTEST, b"garbage")
    assert caught.value.code == "credentials.certificate"


def test_the_list_has_everything_but_secrets(credentials):
    token = credentials.create("b", [Role.ATTEST], expires=START)
    credentials.trust("a", [Role.KEY_ADMIN], certificate())
    first, second = credentials.list()
    assert (first.name, first.kind, first.expires) == ("a", CredentialKind.CERTIFICATE, None)
    assert (second.name, second.created, second.expires) == ("b", START, START)
    assert token[-43:] not in repr(second)


@pytest.mark.parametrize(
    ("name", "roles", "code"),
    [("", [Role.ATTEST], "name"), ("a b", [Role.ATTEST], "name"), ("a", [], "roles"), ("ops", [Role.ATTEST], "taken")],
)
def test_what_cannot_be_a_credential(credentials, name, roles, code):
    credentials.create("ops", [Role.ATTEST])
    with pytest.raises(UsageError) as caught:
        credentials.create(name, roles)
    assert caught.value.code == f"credentials.{code}"


def test_a_token_made_elsewhere_takes_the_place_of_the_one_before(credentials):
    first, second = new_token(), new_token()
    credentials.adopt("ops", [Role.ATTEST], first)
    credentials.adopt("ops", [Role.ATTEST], second, replace=True)
    assert credentials.check(Role.ATTEST, second)
    assert refusal(lambda: credentials.check(Role.ATTEST, first)) == "credentials.unknown"
    with pytest.raises(FormatError) as caught:
        credentials.adopt("other", [Role.ATTEST], "password")
    assert caught.value.code == "credentials.token"


def test_nobody_can_be_revoked_twice(credentials):
    credentials.create("ops", [Role.ATTEST])
    credentials.revoke("ops")
    with pytest.raises(UsageError) as caught:
        credentials.revoke("ops")
    assert caught.value.code == "credentials.unknown-name"


def test_tokens_of_a_file_take_the_place_of_those_before(credentials):
    first, second = new_token(), new_token()
    for token in (first, second):
        entry = {"name": "ops", "roles": ["attest", "policy-admin"], "token": token}
        adopt_file(credentials, json.dumps([entry]).encode())
    assert credentials.check(Role.ATTEST, second).name == "ops"
    assert refusal(lambda: credentials.check(Role.ATTEST, first)) == "credentials.unknown"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "credentials.file"),
        (b"{}", "credentials.file"),
        (b'[{"name": "a", "roles": ["root"], "token": ""}]', "credentials.file"),
        (b'[{"name": "a", "roles": ["attest"], "token": "", "more": 1}]', "credentials.file"),
        (b'[{"name": "a", "roles": ["attest"], "token": "password"}]', "credentials.token"),
    ],
)
def test_a_file_that_is_no_list_of_credentials(credentials, content, code):
    with pytest.raises(FormatError) as caught:
        adopt_file(credentials, content)
    assert caught.value.code == code


def test_who_knows_an_id_cannot_take_the_processor_with_wrong_secrets(credentials, monkeypatch):
    """Each wrong secret costs one scrypt, 50 ms: 12 a second made everybody else wait for seconds."""
    eve, other = (credentials.create(name, [Role.ATTEST]) for name in ("eve", "other"))
    known = credentials.create("known", [Role.ATTEST])
    assert credentials.check(Role.ATTEST, known)
    monkeypatch.setattr(module, "_scrypt", lambda *_: bytes(32))
    outcomes = []
    for number in range(20):
        with pytest.raises(KubenclaveError) as caught:
            credentials.check(Role.ATTEST, f"{eve[:-2]}{number:02d}")
        outcomes.append(caught.value.code)
    assert outcomes[:10] == ["credentials.unknown"] * 10
    assert set(outcomes[12:]) == {"limits.rate"}
    monkeypatch.undo()
    assert credentials.check(Role.ATTEST, known), "what was good before goes on"
    assert credentials.check(Role.ATTEST, other), "and other ids are not concerned"


def test_many_who_come_with_one_token_at_once_cost_one_check(credentials, monkeypatch):
    """Else a service that has just started would refuse most of a crowd of clients that share a token."""
    token = credentials.create("crowd", [Role.ATTEST])
    checked = Mock(wraps=module._scrypt)
    monkeypatch.setattr(module, "_scrypt", checked)
    guard = Guard(credentials)

    async def crowd():
        headers = [(b"authorization", f"Bearer {token}".encode())]
        requests = [Request({"type": "http", "headers": headers}) for _ in range(50)]
        return await asyncio.gather(*(guard.require(each, Role.ATTEST) for each in requests))

    assert {each.name for each in asyncio.run(crowd())} == {"crowd"}
    assert checked.call_count == 1
