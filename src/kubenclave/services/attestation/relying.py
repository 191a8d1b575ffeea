# SPDX-License-Identifier: Apache-2.0
"""The relying party's side: whether a token is good, by rules that are strict unless told otherwise.

Keys come from the caller and nowhere else: what a token says of its own keys (``jku``, ``x5u``, ``jwk``, ``x5c``) is
never followed. The algorithms are an explicit list, and each key is used with its own alone.
"""

import base64
import binascii
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from kubenclave.dcap.anchor import UNREADABLE
from kubenclave.dcap.collateral import load_json
from kubenclave.dcap.describe import zulu
from kubenclave.dcap.token.common import NAMESPACE
from kubenclave.dcap.token.compact import CompactToken
from kubenclave.errors import FormatError, TrustError

ALGORITHMS: Final = ("RS256", "ES256")
_KEY_KINDS: Final[Mapping[str, tuple[str, type[RSAKey | ECKey]]]] = {
    "RS256": ("RSA", RSAKey),
    "ES256": ("EC", ECKey),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a relying party wants of a token.

    ``issuer``: compared byte for byte. ``audience``: None for tokens without one. ``max_age``: since it was issued.
    ``simulated_root``: digest of a SIMULATED root (hex) whose tokens are accepted.
    """

    issuer: str
    audience: str | None = None
    max_age: dt.timedelta | None = None
    skew: dt.timedelta = dt.timedelta(seconds=60)
    require_fresh: bool = False
    simulated_root: str | None = None
    dangerously_allow_simulated: bool = False
    dangerously_allow_debug: bool = False
    dangerously_allow_relaxed: bool = False


@dataclass(frozen=True, slots=True)
class GoodToken:
    """A token that met the rules. ``warnings``: what the rules let through and nobody should overlook."""

    token: CompactToken
    kid: str
    warnings: tuple[str, ...]


def parse_jwks(data: bytes) -> dict[str, Mapping[str, Any]]:
    """Return the keys of a key set (RFC 7517) by ``kid``. Raises FormatError ``jwks.malformed`` or ``json.*``."""
    document = load_json(data, "the key set")
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise _bad_jwks("an object with a list of keys")
    found: dict[str, Mapping[str, Any]] = {}
    for key in keys:
        kid = key.get("kid")
        if not isinstance(kid, str) or kid in found:
            raise _bad_jwks("each key with a kid of its own")
        found[kid] = key
    return found


def verify_token(
    data: str | bytes, keys: Mapping[str, Mapping[str, Any]], rules: Rules, *, now: dt.datetime
) -> GoodToken:
    """Say whether a token is good: signature first, then whose it is and when, then what it says.

    Raises FormatError for what is no token or no key, TrustError (codes ``token.*``) where the answer is no.
    """
    token = CompactToken.parse(data)
    kid = _check_signature(token, keys)
    _check_issuer(token.claims, rules)
    _check_times(token.claims, rules, now)
    return GoodToken(token, kid, _check_verdict(token.claims, rules))


def _check_signature(token: CompactToken, keys: Mapping[str, Mapping[str, Any]]) -> str:
    """Check the signature with the key that the token names, and return that key's name."""
    algorithm, kid = token.algorithm, token.header.get("kid")
    if algorithm not in ALGORITHMS:
        raise TrustError(
            "an unsecured token says what whoever wrote it liked" if algorithm == "none" else "not such a signature",
            code="token.algorithm",
            expected=" or ".join(ALGORITHMS),
            found=str(algorithm)[:20],
            hint="tokens of draft policies are unsecured: set the policy" if algorithm == "none" else None,
        )
    jwk = keys.get(kid) if isinstance(kid, str) else None
    if jwk is None:
        raise TrustError(
            "no key has the name that the token gives",
            code="token.kid",
            expected=", ".join(sorted(keys)) or "a key in the set",
            found=str(kid)[:80],
            hint="after a rotation fetch the key set anew",
        )
    try:
        jws.deserialize_compact(token.text, _key(jwk, algorithm), algorithms=[algorithm])
    except (JoseError, ValueError) as error:
        raise TrustError("the token's signature is not good", code="token.signature", field=str(kid)) from error
    return str(kid)


def _key(jwk: Mapping[str, Any], algorithm: str) -> RSAKey | ECKey:
    """Return the public key for an algorithm; from the certificate where the JWK has nothing else, as Azure's have."""
    kind, key_class = _KEY_KINDS[algorithm]
    if jwk.get("kty") != kind or jwk.get("alg", algorithm) != algorithm:
        raise TrustError(
            "the key is not one for the token's algorithm",
            code="token.algorithm",
            expected=f"{jwk.get('alg') or jwk.get('kty')}"[:20],
            found=algorithm,
        )
    try:
        if "n" in jwk or "x" in jwk:
            names = ("kty", "n", "e", "crv", "x", "y")
            return key_class.import_key({name: jwk[name] for name in names if name in jwk})
        certificate = x509.load_der_x509_certificate(base64.b64decode(jwk["x5c"][0], validate=True))
        public = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return key_class.import_key(public)
    except (JoseError, binascii.Error, AttributeError, *UNREADABLE) as error:
        raise _bad_jwks("a key that can be read") from error


def _check_issuer(claims: Mapping[str, Any], rules: Rules) -> None:
    if claims.get("iss") != rules.issuer:
        found = str(claims.get("iss"))[:200]
        raise TrustError("the token is of another issuer", code="token.issuer", expected=rules.issuer, found=found)
    audience = claims.get("aud")
    for_us = rules.audience in (audience if isinstance(audience, list) else [audience])
    if not for_us:
        raise TrustError(
            "the token is for somebody else",
            code="token.audience",
            expected=rules.audience or "no audience",
            found=str(audience)[:200],
        )


def _check_times(claims: Mapping[str, Any], rules: Rules, now: dt.datetime) -> None:
    expires, begins, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
    if now >= expires + rules.skew:
        raise TrustError("the token's time is over", code="token.expired", expected=zulu(now), found=zulu(expires))
    if now < max(begins, issued) - rules.skew:
        found = zulu(max(begins, issued))
        raise TrustError("the token begins later", code="token.not-yet-valid", expected=zulu(now), found=found)
    if rules.max_age is not None and now - issued > rules.max_age + rules.skew:
        raise TrustError(
            "the token was issued too long ago",
            code="token.age",
            expected=f"within {rules.max_age}",
            found=f"{now - issued} ago",
        )


def _time(claims: Mapping[str, Any], name: str) -> dt.datetime:
    value = claims.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 35:
        return dt.datetime.fromtimestamp(value, dt.UTC)
    raise FormatError(
        "a claim of the token is not what it has to be",
        code="token.malformed",
        field=name,
        expected="seconds since 1970",
        found=str(value)[:40],
    )


def _check_verdict(claims: Mapping[str, Any], rules: Rules) -> tuple[str, ...]:
    """Check what the service said of its own verdict, and return what a reader should not overlook."""
    said = claims.get(NAMESPACE)
    if not isinstance(said, dict):
        return _check_foreign(claims, rules)
    warnings = []
    if said.get("draft") is not False:
        raise TrustError("a verdict under a draft policy does not count", code="token.draft")
    if said.get("simulated") is not False:
        _check_simulated(said, rules)
        warnings.append("SIMULATED platform: nothing protects this enclave")
    if said.get("debug") is not False:
        if not rules.dangerously_allow_debug:
            raise TrustError("the host of this enclave can read its memory", code="token.debug")
        warnings.append("debug enclave: its host can read its memory")
    if rules.require_fresh and said.get("fresh") is not True:
        raise TrustError(
            "nothing shows that the evidence was made for this request",
            code="token.not-fresh",
            hint="attest with a challenge of the service",
        )
    if said.get("appraised") is not True:
        warnings.append("not appraised: nobody said which enclave was wanted")
    if said.get("tcb_status") != "UpToDate":
        warnings.append(f"TCB status: {said.get('tcb_status')}")
    return (*warnings, *_relaxations(said, rules))


def _check_foreign(claims: Mapping[str, Any], rules: Rules) -> tuple[str, ...]:
    """Check a token of another service in Azure's dialect, which says less."""
    if rules.require_fresh:
        raise TrustError("the token does not say whether the evidence was fresh", code="token.not-fresh")
    if claims.get("x-ms-sgx-is-debuggable", claims.get("tdx_td_attributes_debug")) is not False:
        if not rules.dangerously_allow_debug:
            raise TrustError("the token does not rule out a debug enclave", code="token.debug")
        return ("debug enclave, or one of which nothing is known",)
    return ("another service's token: it says nothing of relaxations, collateral or a simulated platform",)


def _check_simulated(said: Mapping[str, Any], rules: Rules) -> None:
    if rules.dangerously_allow_simulated or (rules.simulated_root and said.get("root") == rules.simulated_root):
        return
    raise TrustError(
        "the platform is SIMULATED",
        code="token.simulated",
        expected="Intel's root" if rules.simulated_root is None else f"the simulated root {rules.simulated_root}",
        found=str(said.get("root"))[:80],
        hint="to try things out: --simulated-root, or --dangerously-allow-simulated",
    )


def _relaxations(said: Mapping[str, Any], rules: Rules) -> tuple[str, ...]:
    """Return the relaxations of the verdict; dangerous ones are refused unless the rules allow them.

    Debug and a simulated root are relaxations too, of which the rules have been asked already.
    """
    named = said.get("relaxations")
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise FormatError("a claim of the token is not what it has to be", code="token.malformed", field="relaxations")
    others = [each for each in named if not each.startswith(("root:", "dangerously_allow_debug:"))]
    dangerous = [each for each in others if each.startswith("dangerously_")]
    if dangerous and not rules.dangerously_allow_relaxed:
        raise TrustError("the verdict rests on a dangerous relaxation", code="token.relaxed", found=dangerous[0])
    return tuple(f"relaxed: {each}" for each in others)


def _bad_jwks(expected: str) -> FormatError:
    return FormatError("not a key set", code="jwks.malformed", expected=expected)
