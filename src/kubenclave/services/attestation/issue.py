# SPDX-License-Identifier: Apache-2.0
"""Tokens from judgements: the claims of a dialect, the issuer's own, a signature."""

import datetime as dt
import enum
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from kubenclave import __version__
from kubenclave.dcap.judgement import Judgement
from kubenclave.dcap.token.azure import azure_claims, base64url
from kubenclave.dcap.token.common import NAMESPACE, LogReceipt
from kubenclave.dcap.token.ear import Dialect as EarDialect
from kubenclave.dcap.token.ear import ear_claims
from kubenclave.errors import FormatError, UsageError
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing

LIFETIME: Final = dt.timedelta(hours=8)
JWKS_PATHS: Final = {Algorithm.RS256: "/certs", Algorithm.ES256: "/v1/certs"}
"""Where each key set is, below the issuer's URL: clients of Azure Attestation stumble over keys that are not RSA."""

DRAFT_SUFFIX: Final = "/draft-policy"
_BUILD: Final = f"kubenclave {__version__}"


class TokenDialect(enum.StrEnum):
    """What a token looks like."""

    AZURE = "azure"
    EAR = "ear"
    EAR_VERAISON = "ear-veraison"


def new_jti() -> str:
    """Return an identifier for one token, which its log entry has too."""
    return uuid.uuid4().hex


class TokenIssuer:
    """Signs what the service says.

    ``drafts``: whether verdicts under a draft policy get a token; it is unsecured (alg none), as clients of Azure
    Attestation expect it, and has an issuer of its own so that nobody takes it for another.
    """

    def __init__(
        self,
        keyring: KeyRing,
        now: Callable[[], dt.datetime],
        *,
        lifetime: dt.timedelta = LIFETIME,
        drafts: bool = False,
    ) -> None:
        self.url: Final = keyring.settings.issuer_url
        self._keyring: Final = keyring
        self._simulated: Final = keyring.settings.simulated
        self._now: Final = now
        self._lifetime: Final = lifetime
        self._drafts: Final = drafts

    def issue(
        self, judgement: Judgement, dialect: TokenDialect, *, log: LogReceipt | None = None, jti: str | None = None
    ) -> str:
        """Return the token of a judgement. Costs one signature; needs no other worker.

        Raises UsageError ``token.draft`` for a draft where drafts get no token, ``token.other-root`` for a verdict
        under another kind of root than this service's; FormatError (``token.*``, ``json.*``) when held data or nonce
        does not fit into the dialect.
        """
        if judgement.verdict.simulated is not self._simulated:
            raise UsageError("a verdict under another root than this service is for", code="token.other-root")
        if dialect is TokenDialect.AZURE:
            claims, algorithm = azure_claims(judgement, log=log), Algorithm.RS256
        else:
            spelling = EarDialect.DRAFT if dialect is TokenDialect.EAR else EarDialect.VERAISON
            claims, algorithm = ear_claims(judgement, spelling, build=_BUILD, log=log), Algorithm.ES256
        return self._draft(claims, jti) if judgement.draft else self.sign(claims, algorithm, jti=jti)

    def sign(self, claims: Mapping[str, Any], algorithm: Algorithm = Algorithm.RS256, *, jti: str | None = None) -> str:
        """Return claims as a token of this issuer, good from the second that has begun.

        One of a SIMULATED service says so, whatever it is about.
        """
        header = {"typ": "JWT", "jku": self.url + JWKS_PATHS[algorithm]}
        mark = {NAMESPACE: {"simulated": True}} if self._simulated else {}
        payload = {**mark, **claims, **self._own_claims(self.url, jti)}
        return self._keyring.active(algorithm).sign(_compact(payload), header)

    def _draft(self, claims: Mapping[str, Any], jti: str | None) -> str:
        if not self._drafts:
            raise UsageError(
                "verdicts under a draft policy get no token here",
                code="token.draft",
                hint="try the policy with a dry run, or let the operator turn draft tokens on",
            )
        payload = {**claims, **self._own_claims(self.url + DRAFT_SUFFIX, jti)}
        header = {"alg": "none", "typ": "JWT"}
        return f"{base64url(_compact(header))}.{base64url(_compact(payload))}."

    def _own_claims(self, issuer: str, jti: str | None) -> dict[str, Any]:
        """Return issuer and times: whole seconds already past, as clients with hardly any tolerance need them."""
        second = int(self._now().timestamp())
        return {
            "iss": issuer,
            "iat": second,
            "nbf": second,
            "exp": second + int(self._lifetime.total_seconds()),
            "jti": new_jti() if jti is None else jti,
        }


def _compact(value: Mapping[str, Any]) -> bytes:
    """Return JSON in UTF-8. Held data that was JSON may have had what neither can hold: half a character, 1e999."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise FormatError(
            "a value that no token can hold",
            code="token.value",
            found=str(error)[:100],
            hint="send the data as Binary",
        ) from error
