# SPDX-License-Identifier: Apache-2.0
"""The relying party's check: what is refused, and with which code."""

import base64
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kubenclave.errors import KubenclaveError, TrustError
from kubenclave.services.attestation.issue import TokenDialect, TokenIssuer
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing, KeySettings
from kubenclave.services.attestation.relying import Rules, parse_jwks, verify_token
from kubenclave.services.database import Database
from tests import evidence
from tests.judgements import judgement

URL = "https://attest.example/simulated"
NOW = dt.datetime(2026, 3, 5, 12, 0, 0, 500_000, tzinfo=dt.UTC)
RULES = Rules(issuer=URL, dangerously_allow_simulated=True)
Keys = dict[str, Any]


class Service:
    """A service as far as its tokens go."""

    def __init__(self, keyring: KeyRing) -> None:
        self.keyring = keyring
        self.issuer = TokenIssuer(keyring, lambda: NOW, drafts=True)
        self.keys: Keys = dict(parse_jwks(json.dumps(keyring.jwks(Algorithm.RS256)).encode()))
        self.ec_keys: Keys = dict(parse_jwks(json.dumps(keyring.jwks(Algorithm.ES256)).encode()))

    def token(self, **changes: Any) -> str:
        return self.issuer.issue(judgement(**changes), TokenDialect.AZURE)

    def signed(self, change: Callable[[dict[str, Any]], object]) -> str:
        """Return a token with claims as no service of ours would write them."""
        claims = jwt.decode(self.token(), options={"verify_signature": False})
        change(claims)
        return self.keyring.active(Algorithm.RS256).sign(json.dumps(claims).encode(), {"typ": "JWT"})


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    database = Database(tmp_path_factory.mktemp("state") / "attestation.db")
    yield Service(KeyRing(database, lambda: NOW, KeySettings(issuer_url=URL, simulated=True)))
    database.close()


def refused(token: str, keys: Keys, rules: Rules = RULES, now: dt.datetime = NOW) -> str:
    with pytest.raises(KubenclaveError) as caught:
        verify_token(token, keys, rules, now=now)
    return caught.value.code


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_header(token: str, **header: Any) -> str:
    """Return the token under another header, its signature as it was."""
    _, payload, signature = token.split(".")
    return f"{base64url(json.dumps(header).encode())}.{payload}.{signature}"


def test_a_good_token(service):
    good = verify_token(service.token(), service.keys, RULES, now=NOW)
    assert good.kid == service.keyring.active(Algorithm.RS256).kid
    assert good.token.claims["x-ms-sgx-mrenclave"] == evidence.MR_ENCLAVE.hex()
    assert good.warnings == ("SIMULATED platform: nothing protects this enclave",)


@pytest.mark.parametrize("dialect", [TokenDialect.EAR, TokenDialect.EAR_VERAISON])
def test_a_good_ear(service, dialect):
    token = service.issuer.issue(judgement(), dialect)
    assert verify_token(token, service.ec_keys, RULES, now=NOW).kid.startswith("simulated-")


def test_alg_none_is_refused_with_and_without_a_signature(service):
    token = service.token()
    for spelling in ("none", "None", "NONE", "nOnE"):
        forged = with_header(token, alg=spelling, kid=next(iter(service.keys)))
        assert refused(forged, service.keys) == "token.algorithm"
        assert refused(forged.rpartition(".")[0] + ".", service.keys) == "token.algorithm"
    assert refused(service.token(draft=True), service.keys) == "token.algorithm"


def test_a_public_key_is_no_secret_to_sign_with(service):
    """HS256 with the public key as its secret, which a careless verifier takes."""
    (jwk,) = service.keys.values()
    public = jwt.PyJWK(jwk).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _, payload, _ = service.token().split(".")
    signed = f"{base64url(json.dumps({'alg': 'HS256', 'kid': jwk['kid']}).encode())}.{payload}"
    tag = base64url(hmac.new(public, signed.encode(), hashlib.sha256).digest())
    assert refused(f"{signed}.{tag}", service.keys) == "token.algorithm"


@pytest.mark.parametrize("algorithm", ["RS384", "PS256", "ES384", "EdDSA", "", None, 1, ["RS256"], {"a": 1}])
def test_other_algorithms_are_refused(service, algorithm):
    assert refused(with_header(service.token(), alg=algorithm, kid=next(iter(service.keys))), service.keys) == (
        "token.algorithm"
    )


def test_a_key_is_used_with_its_own_algorithm_alone(service):
    kid = next(iter(service.keys))
    assert refused(with_header(service.token(), alg="ES256", kid=kid), service.keys) == "token.algorithm"
    other = {kid: {**service.keys[kid], "alg": "RS512"}}
    assert refused(service.token(), other) == "token.algorithm"


@pytest.mark.parametrize("kid", [None, "", "nobody", 7, ["x"], {"kid": 1}, "../../etc/passwd", "x" * 5000, "' OR 1=1"])
def test_an_unknown_kid_is_refused(service, kid):
    assert refused(with_header(service.token(), alg="RS256", kid=kid), service.keys) == "token.kid"


def test_keys_that_a_token_brings_along_are_not_looked_at(service):
    mine = rsa.generate_private_key(65537, 2048)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(mine.public_key()))
    claims = jwt.decode(service.token(), options={"verify_signature": False})
    header = {"kid": next(iter(service.keys)), "jwk": jwk, "jku": "http://127.0.0.1:9/", "x5u": "http://127.0.0.1:9/"}
    assert refused(jwt.encode(claims, mine, "RS256", headers=header), service.keys) == "token.signature"


def test_a_critical_header_that_nobody_knows_is_refused(service):
    token = service.keyring.active(Algorithm.RS256).sign(b"{}", {})
    kid = next(iter(service.keys))
    assert refused(with_header(token, alg="RS256", kid=kid, crit=["exp"], exp=1), service.keys) == "token.signature"


def test_any_changed_bit_is_refused(service):
    token = service.token()
    first, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["x-ms-sgx-mrenclave"] = "00" * 32
    assert refused(f"{first}.{base64url(json.dumps(claims).encode())}.{signature}", service.keys) == "token.signature"
    assert refused(f"{first}.{payload}.{signature[:-8]}AAAAAAAA", service.keys) == "token.signature"
    assert refused(f"{first}.{payload}.", service.keys) == "token.signature"


@pytest.mark.parametrize("issuer", ["https://attest.example", URL + "/", URL.upper(), URL + "/draft-policy"])
def test_another_issuer_is_refused(service, issuer):
    assert refused(service.token(), service.keys, replace(RULES, issuer=issuer)) == "token.issuer"


def test_audiences(service):
    def for_us(claims):
        claims["aud"] = ["us", "them"]

    token = service.signed(for_us)
    verify_token(token, service.keys, replace(RULES, audience="us"), now=NOW)
    assert refused(token, service.keys) == "token.audience"
    assert refused(service.token(), service.keys, replace(RULES, audience="us")) == "token.audience"


def test_times(service):
    token = service.token()
    lifetime, skew = dt.timedelta(hours=8), dt.timedelta(seconds=60)
    second = NOW.replace(microsecond=0)
    verify_token(token, service.keys, RULES, now=second + lifetime + skew - dt.timedelta(seconds=1))
    assert refused(token, service.keys, now=second + lifetime + skew) == "token.expired"
    verify_token(token, service.keys, RULES, now=second - skew)
    assert refused(token, service.keys, now=second - skew - dt.timedelta(seconds=1)) == "token.not-yet-valid"


def test_the_age_of_a_token(service):
    rules = replace(RULES, max_age=dt.timedelta(minutes=5))
    verify_token(service.token(), service.keys, rules, now=NOW + dt.timedelta(minutes=5))
    assert refused(service.token(), service.keys, rules, NOW + dt.timedelta(minutes=7)) == "token.age"


@pytest.mark.parametrize("value", [None, "1700000000", 1.5, True, -1, 1 << 40])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_times_of_another_type_are_refused(service, name, value):
    assert refused(service.signed(lambda claims: claims.update({name: value})), service.keys) == "token.malformed"


def test_a_simulated_platform_is_refused_unless_told_otherwise(service):
    strict = replace(RULES, dangerously_allow_simulated=False)
    assert refused(service.token(), service.keys, strict) == "token.simulated"
    assert refused(service.token(), service.keys, replace(strict, simulated_root="00" * 32)) == "token.simulated"
    root = judgement().verdict.verified.anchor.digest
    verify_token(service.token(), service.keys, replace(strict, simulated_root=root), now=NOW)


@pytest.mark.parametrize("value", ["missing", None, 1, "false", []])
def test_flags_that_are_not_plainly_false_count_as_set(service, value):
    for name, code in (("simulated", "token.simulated"), ("debug", "token.debug"), ("draft", "token.draft")):

        def change(claims, name=name):
            claims["kubenclave"]["simulated"] = False
            if value == "missing":
                del claims["kubenclave"][name]
            else:
                claims["kubenclave"][name] = value

        strict = replace(RULES, dangerously_allow_simulated=False)
        assert refused(service.signed(change), service.keys, strict) == code


def test_a_debug_enclave_is_refused_unless_told_otherwise(service):
    token = service.token(given=evidence.debug(), debug=True)
    assert refused(token, service.keys) == "token.debug"
    good = verify_token(token, service.keys, replace(RULES, dangerously_allow_debug=True), now=NOW)
    assert "debug enclave: its host can read its memory" in good.warnings


def test_freshness_is_refused_when_it_is_wanted_and_not_shown(service):
    wanted = replace(RULES, require_fresh=True)
    assert refused(service.token(), service.keys, wanted) == "token.not-fresh"
    fresh = service.signed(lambda claims: claims["kubenclave"].update(fresh=True))
    verify_token(fresh, service.keys, wanted, now=NOW)


def test_dangerous_relaxations_are_refused_unless_told_otherwise(service):
    relaxed = ("dangerously_accept_expired_collateral: TCB info ended yesterday", "tcb_statuses: OutOfDate accepted")
    token = service.token(relaxations=relaxed)
    assert refused(token, service.keys) == "token.relaxed"
    good = verify_token(token, service.keys, replace(RULES, dangerously_allow_relaxed=True), now=NOW)
    assert [each for each in good.warnings if each.startswith("relaxed: ")] == [f"relaxed: {each}" for each in relaxed]
    for wrong in (None, "x", [1]):
        forged = service.signed(lambda claims, wrong=wrong: claims["kubenclave"].update(relaxations=wrong))
        assert refused(forged, service.keys) == "token.malformed"


@pytest.mark.parametrize("status", ["OutOfDate", None])
def test_nobody_overlooks_a_tcb_that_is_not_up_to_date(service, status):
    token = service.signed(lambda claims: claims["kubenclave"].update(tcb_status=status))
    assert f"TCB status: {status}" in verify_token(token, service.keys, RULES, now=NOW).warnings


def test_nobody_overlooks_that_nothing_was_appraised(service):
    good = verify_token(service.token(policy_reference=None), service.keys, RULES, now=NOW)
    assert "not appraised: nobody said which enclave was wanted" in good.warnings


def test_a_token_of_azures_own(service):
    def foreign(claims):
        del claims["kubenclave"]

    token = service.signed(foreign)
    bare = {kid: {name: jwk[name] for name in ("kty", "kid", "x5c")} for kid, jwk in service.keys.items()}
    (warning,) = verify_token(token, bare, RULES, now=NOW).warnings
    assert "another service" in warning
    assert refused(token, bare, replace(RULES, require_fresh=True)) == "token.not-fresh"

    def debuggable(claims):
        del claims["kubenclave"]
        claims["x-ms-sgx-is-debuggable"] = True

    assert refused(service.signed(debuggable), bare) == "token.debug"
    allowed = replace(RULES, dangerously_allow_debug=True)
    assert verify_token(service.signed(debuggable), bare, allowed, now=NOW).warnings


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "RSA", "n": "!", "e": "AQAB"},
        {"kty": "RSA", "n": "AQAB"},
        {"kty": "RSA"},
        {"kty": "RSA", "x5c": []},
        {"kty": "RSA", "x5c": ["!"]},
        {"kty": "RSA", "x5c": ["AAAA"]},
        {"kty": "RSA", "x5c": 1},
        {"kty": "RSA", "x5c": [1]},
    ],
)
def test_a_key_that_cannot_be_read_is_said_to_be_that(service, jwk):
    kid = next(iter(service.keys))
    assert refused(service.token(), {kid: jwk}) == "jwks.malformed"


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b'{"keys":{}}', b'{"keys":[1]}', b'{"keys":[{}]}', b'{"keys":[{"kid":"a"},{"kid":"a"}]}']
)
def test_what_is_no_key_set_is_refused(text):
    with pytest.raises(KubenclaveError) as caught:
        parse_jwks(text)
    assert caught.value.code == "jwks.malformed"


def test_a_refusal_is_a_verdict(service):
    with pytest.raises(TrustError):
        verify_token(service.token(), {}, RULES, now=NOW)
