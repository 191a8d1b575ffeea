# SPDX-License-Identifier: Apache-2.0
"""What a signing key is, and how long each is seen; ``store`` keeps them."""

import base64
import datetime as dt
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from kubenclave.dcap.describe import zulu
from kubenclave.services.attestation.keys import keyfiles

_SKEW: Final = dt.timedelta(minutes=5)
_CACHE: Final = dt.timedelta(hours=1)  # jose keeps a key set for 10 minutes, PyJWT for 5


class Algorithm(enum.StrEnum):
    """Signature algorithms (RFC 7518): RS256 for the Azure dialect, ES256 for everything else."""

    RS256 = keyfiles.RS256
    ES256 = keyfiles.ES256


class State(enum.StrEnum):
    """What a key is for at a moment."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    WITHDRAWN = "withdrawn"  # not published: its time is over, or it was revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """How keys are made and for how long they are seen.

    ``publish_ahead``: how long a key is published before it signs; no less than clients keep a key set.
    ``files``: keys that lie in files of the operator's instead of the database.
    """

    issuer_url: str
    simulated: bool
    token_lifetime: dt.timedelta = dt.timedelta(hours=8)
    publish_ahead: dt.timedelta = dt.timedelta(minutes=15)
    rsa_bits: int = 2048
    files: Mapping[Algorithm, Path] = field(default_factory=dict)

    @property
    def overlap(self) -> dt.timedelta:
        """How long a retired key stays published: lifetime of its tokens, skew of clocks, caches."""
        return self.token_lifetime + _SKEW + _CACHE

    def to_json(self) -> str:
        """Return the settings as the database keeps them, for tools that change keys while the service runs."""
        members = {
            "issuer_url": self.issuer_url,
            "simulated": self.simulated,
            "token_lifetime": self.token_lifetime.total_seconds(),
            "publish_ahead": self.publish_ahead.total_seconds(),
            "rsa_bits": self.rsa_bits,
            "files": {str(algorithm): str(path) for algorithm, path in self.files.items()},
        }
        return json.dumps(members, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what ``to_json`` wrote."""
        members = json.loads(text)
        return cls(
            issuer_url=members["issuer_url"],
            simulated=members["simulated"],
            token_lifetime=dt.timedelta(seconds=members["token_lifetime"]),
            publish_ahead=dt.timedelta(seconds=members["publish_ahead"]),
            rsa_bits=members["rsa_bits"],
            files={Algorithm(algorithm): Path(path) for algorithm, path in members["files"].items()},
        )


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A key and its public face. ``kid`` is the RFC 7638 thumbprint, ``certificate`` DER."""

    kid: str
    algorithm: Algorithm
    jwk: Mapping[str, Any]
    number: int
    created: dt.datetime
    active_from: dt.datetime
    revoked: dt.datetime | None
    file: str | None
    private: RSAKey | ECKey | None = field(repr=False)  # None: revoked, or its file cannot be read

    @cached_property
    def certificate(self) -> bytes:
        """The certificate of ``x5c``, DER."""
        return base64.b64decode(self.jwk["x5c"][0])

    def as_dict(self) -> dict[str, Any]:
        """Return what may be said of it beside its public half, as JSON values."""
        return {
            "kid": self.kid,
            "algorithm": self.algorithm.value,
            "created": zulu(self.created),
            "active_from": zulu(self.active_from),
            "revoked": None if self.revoked is None else zulu(self.revoked),
        }

    def sign(self, payload: bytes, header: Mapping[str, Any]) -> str:
        """Return a JWS in compact form (RFC 7515); ``alg`` and ``kid`` are added to its header."""
        if self.private is None:
            raise keyfiles.missing(self.file or self.kid, "no private key")
        protected = {"alg": self.algorithm.value, "kid": self.kid, **header}
        return jws.serialize_compact(protected, payload, self.private, algorithms=[self.algorithm.value])
