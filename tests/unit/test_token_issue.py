# SPDX-License-Identifier: Apache-2.0
"""Tokens as a usual library of a relying party sees them."""

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jwt
import pytest
from jwt.types import Options

from kubenclave.dcap.judgement import DataType, HeldData
from kubenclave.errors import FormatError, KubenclaveError
from kubenclave.services.attestation.issue import JWKS_PATHS, TokenDialect, TokenIssuer, new_jti
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing, KeySettings
from kubenclave.services.database import Database
from tests.judgements import judgement

URL = "https://attest.example/simulated"
NOW = dt.datetime(2026, 3, 5, 12, 0, 7, 900_000, tzinfo=dt.UTC)
IGNORE_TIME: Options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}


@pytest.fixture(scope="module")
def keyring(tmp_path_factory) -> Iterator[KeyRing]:
    database = Database(tmp_path_factory.mktemp("state") / "attestation.db")
    yield KeyRing(database, lambda: NOW, KeySettings(issuer_url=URL, simulated=True))
    database.close()


@pytest.fixture
def issuer(keyring) -> TokenIssuer:
    return TokenIssuer(keyring, lambda: NOW)


def decode(token: str, keyring: KeyRing) -> dict[str, Any]:
    header = jwt.get_unverified_header(token)
    keys = jwt.PyJWKSet.from_dict(keyring.jwks(Algorithm(header["alg"])))
    return jwt.decode(token, keys[header["kid"]], algorithms=["RS256", "ES256"], issuer=URL, options=IGNORE_TIME)


@pytest.mark.parametrize(
    ("dialect", "algorithm"),
    [(TokenDialect.AZURE, "RS256"), (TokenDialect.EAR, "ES256"), (TokenDialect.EAR_VERAISON, "ES256")],
)
def test_a_token_is_signed_with_the_active_key_of_its_dialect(issuer, keyring, dialect, algorithm):
    token = issuer.issue(judgement(), dialect)
    header = jwt.get_unverified_header(token)
    assert header == {
        "alg": algorithm,
        "typ": "JWT",
        "kid": keyring.active(Algorithm(algorithm)).kid,
        "jku": URL + JWKS_PATHS[Algorithm(algorithm)],
    }
    assert decode(token, keyring)["kubenclave"]["simulated"] is True


def test_times_are_whole_seconds_that_have_begun(issuer, keyring):
    claims = decode(issuer.issue(judgement(), TokenDialect.AZURE), keyring)
    assert claims["iat"] == claims["nbf"] == int(NOW.timestamp())
    assert claims["exp"] - claims["iat"] == 28_800
    assert claims["iss"] == URL


def test_another_lifetime(keyring):
    issuer = TokenIssuer(keyring, lambda: NOW, lifetime=dt.timedelta(minutes=5))
    claims = decode(issuer.issue(judgement(), TokenDialect.EAR), keyring)
    assert claims["exp"] - claims["iat"] == 300


def test_every_token_has_an_identifier_of_its_own(issuer, keyring):
    found = {decode(issuer.issue(judgement(), TokenDialect.EAR), keyring)["jti"] for _ in range(20)}
    assert len(found) == 20
    jti = new_jti()
    assert decode(issuer.issue(judgement(), TokenDialect.EAR, jti=jti), keyring)["jti"] == jti


def test_no_policy_overrides_the_issuer(issuer, keyring):
    forged = {"iss": "https://other.example", "exp": 1, "jti": "x", "iat": 1, "nbf": 1}
    claims = decode(issuer.issue(judgement(issued=forged), TokenDialect.AZURE), keyring)
    assert claims["iss"] == URL
    assert claims["exp"] > NOW.timestamp()


def test_a_draft_gets_no_token_unless_it_was_turned_on(issuer):
    with pytest.raises(KubenclaveError) as caught:
        issuer.issue(judgement(draft=True), TokenDialect.AZURE)
    assert caught.value.code == "token.draft"


def test_a_drafts_token_is_unsecured_and_of_another_issuer(keyring):
    issuer = TokenIssuer(keyring, lambda: NOW, drafts=True)
    token = issuer.issue(judgement(draft=True), TokenDialect.AZURE)
    assert token.endswith(".")
    assert jwt.get_unverified_header(token) == {"alg": "none", "typ": "JWT"}
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["iss"] == f"{URL}/draft-policy"
    assert claims["kubenclave"]["draft"] is True
    (key,) = jwt.PyJWKSet.from_dict(keyring.jwks(Algorithm.RS256)).keys
    with pytest.raises(jwt.InvalidTokenError):
        jwt.decode(token, key, algorithms=["RS256"], options=IGNORE_TIME)


def test_a_verdict_under_another_root_gets_no_token(tmp_path):
    database = Database(tmp_path / "attestation.db")
    keyring = KeyRing(database, lambda: NOW, KeySettings(issuer_url="https://attest.example", simulated=False))
    with pytest.raises(KubenclaveError) as caught:
        TokenIssuer(keyring, lambda: NOW).issue(judgement(), TokenDialect.AZURE)
    assert caught.value.code == "token.other-root"
    claims = jwt.decode(TokenIssuer(keyring, lambda: NOW).sign({}), options={"verify_signature": False})
    assert "kubenclave" not in claims
    database.close()


def test_other_claims_are_signed_and_say_simulated_too(issuer, keyring):
    claims = decode(issuer.sign({"x-ms-policy-result": "Updated"}), keyring)
    assert claims["x-ms-policy-result"] == "Updated"
    assert claims["kubenclave"] == {"simulated": True}
    assert claims["iss"] == URL


def test_tokens_verify_through_a_rotation(tmp_path):
    times = [NOW]
    database = Database(tmp_path / "attestation.db")
    keyring = KeyRing(database, lambda: times[-1], KeySettings(issuer_url=URL, simulated=True))
    issuer = TokenIssuer(keyring, lambda: times[-1])
    old = issuer.issue(judgement(), TokenDialect.AZURE)
    keyring.rotate(Algorithm.RS256)
    fetched = json.loads(json.dumps(keyring.jwks(Algorithm.RS256)))  # a client that keeps the set of before
    times.append(NOW + dt.timedelta(minutes=16))
    new = issuer.issue(judgement(), TokenDialect.AZURE)
    assert jwt.get_unverified_header(old)["kid"] != jwt.get_unverified_header(new)["kid"]
    for token in (old, new):
        decode(token, keyring)
        kept = jwt.PyJWKSet.from_dict(fetched)[jwt.get_unverified_header(token)["kid"]]
        jwt.decode(token, kept, algorithms=["RS256"], options=IGNORE_TIME)
    times.append(NOW + dt.timedelta(hours=8))
    decode(old, keyring)
    database.close()


def test_text_of_any_script_is_kept(issuer, keyring):
    claims = decode(issuer.issue(replace(judgement(), nonce="nönce 名前 12"), TokenDialect.EAR), keyring)
    assert claims["eat_nonce"] == "nönce 名前 12"


@pytest.mark.parametrize("text", [b'{"a":"\\ud800"}', b'{"\\udfff":1}', b'{"a":1e999}'])
def test_what_no_token_can_hold_is_refused(issuer, text):
    with pytest.raises(FormatError) as caught:
        issuer.issue(judgement(runtime_data=HeldData(text, DataType.JSON)), TokenDialect.AZURE)
    assert caught.value.code == "token.value"
