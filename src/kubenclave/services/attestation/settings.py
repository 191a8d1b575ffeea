# SPDX-License-Identifier: Apache-2.0
"""What an operator decides about an attestation service. Everything strict is the default.

A service is for Intel's root or for one simulated root, never for both, and its name says which: whoever compares the
issuer of a token, as all clients do, has then compared that as well.
"""

import datetime as dt
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kubenclave.dcap.anchor import TrustAnchor, intel_root
from kubenclave.errors import UsageError
from kubenclave.services.attestation.keys.store import Algorithm

SIMULATED: Final = "simulated"
_MAX_ISSUER: Final = 240  # Gramine's client has 256 bytes for the whole URL
_URL: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Decisions for the life of a process.

    - ``issuer``: URL that tokens name and clients compare octet by octet; no slash at the end. Routes lie under its
      path.
    - ``state``: directory of the databases, made with mode 0700.
    - ``root``: certificate in DER of the one SIMULATED root; None for Intel's.
    - ``open``: anybody may attest and verify; else it takes a credential with the role ``attest``.
    - ``challenge_lifetime``, ``token_lifetime``: a token of Azure's lives for eight hours.
    - ``max_batch``: pieces of evidence in one request.
    - ``keep_evidence``: pieces of evidence kept for dry runs of policies; 0 keeps none.
    - ``isolated``: policies count only when a registered signer signed them.
    - ``signing_key_files``: signing keys that lie in files instead of the database.
    - ``secrets_key``: file with the key that seals the secrets for enclaves; without one there are none.
    - ``minimum_tcb_evaluation_data_number``: oldest generation of collateral.
    - ``dangerously_allow_debug``: enclaves whose memory their host can read get tokens that say so.
    - ``dangerously_accept_expired_collateral``: for how long after its end collateral still counts.
    - ``dangerously_allow_draft_policies``: requests may bring a policy and get unsigned tokens of another issuer.

    Raises UsageError (codes ``settings.*``), and FormatError ``root.malformed`` where ``root`` is no root certificate.
    """

    issuer: str
    state: Path
    root: bytes | None = None
    open: bool = False
    token_lifetime: dt.timedelta = dt.timedelta(hours=8)
    challenge_lifetime: dt.timedelta = dt.timedelta(minutes=5)
    max_batch: int = 16
    keep_evidence: int = 0
    isolated: bool = False
    signing_key_files: Mapping[Algorithm, Path] = field(default_factory=dict)
    secrets_key: Path | None = None
    minimum_tcb_evaluation_data_number: int = 0
    dangerously_allow_debug: bool = False
    dangerously_accept_expired_collateral: dt.timedelta = dt.timedelta(0)
    dangerously_allow_draft_policies: bool = False

    def __post_init__(self) -> None:
        _check_issuer(self.issuer)
        named = SIMULATED in self.issuer.lower()
        if self.simulated is not named:
            raise UsageError(
                "the issuer does not say what the service is for",
                code="settings.issuer-simulated",
                field="issuer",
                expected=f'"{SIMULATED}" in it' if self.simulated else f'no "{SIMULATED}" in it',
                found=self.issuer,
                hint=f"a service for a simulated root may be called {self.issuer}/{SIMULATED}"
                if self.simulated
                else "give the simulated root, or call the service otherwise",
            )
        for name, least in (("token_lifetime", 60), ("challenge_lifetime", 10)):
            value: dt.timedelta = getattr(self, name)
            if not dt.timedelta(seconds=least) <= value <= dt.timedelta(days=1):
                raise _unfit(name, f"{least} s to a day", str(value))
        bounds = (
            ("max_batch", 1, 256),
            ("keep_evidence", 0, 1_000_000),
            ("minimum_tcb_evaluation_data_number", 0, 1 << 32),
        )
        for name, least, most in bounds:
            number: int = getattr(self, name)
            if not least <= number <= most:
                raise _unfit(name, f"{least} to {most}", str(number))
        if self.dangerously_accept_expired_collateral < dt.timedelta(0):
            raise _unfit("dangerously_accept_expired_collateral", "no negative time", "one")

    @functools.cached_property
    def anchor(self) -> TrustAnchor:
        """The one root that evidence has to chain up to."""
        return intel_root() if self.root is None else TrustAnchor.from_certificate(self.root)

    @property
    def simulated(self) -> bool:
        """Whether the root is another one than Intel's."""
        return not self.anchor.is_intel

    @property
    def path(self) -> str:
        """Path that all routes lie under: empty, or ``/simulated`` and the like."""
        return urlsplit(self.issuer).path

    @property
    def relaxations(self) -> tuple[str, ...]:
        """What the operator lets through beyond the default, each beginning with the setting that says so."""
        named = []
        if self.dangerously_allow_debug:
            named.append("dangerously_allow_debug: debug enclaves are let through: their host can read their memory")
        if grace := self.dangerously_accept_expired_collateral:
            named.append(f"dangerously_accept_expired_collateral: collateral counts for {grace} after its end")
        if self.dangerously_allow_draft_policies:
            named.append("dangerously_allow_draft_policies: requests may bring a policy of their own")
        return tuple(named)


def _check_issuer(issuer: str) -> None:
    """Refuse what clients would write otherwise than we do, or could not reach."""
    try:
        parts = urlsplit(issuer)
        _ = parts.port
    except ValueError:
        raise _unfit("issuer", "a URL", issuer[:80]) from None
    plain = parts.scheme in {"https", "http"} and parts.hostname and not (parts.query or parts.fragment)
    if not plain or "@" in parts.netloc or issuer.endswith("/") or not _URL.fullmatch(issuer):
        raise _unfit("issuer", "https://host[:port][/path], without a slash at the end", issuer[:80])
    if len(issuer) > _MAX_ISSUER:
        raise _unfit("issuer", f"{_MAX_ISSUER} characters at most", str(len(issuer)))


def _unfit(name: str, expected: str, found: str) -> UsageError:
    return UsageError(
        "a setting of the attestation service cannot be",
        code="settings.unfit",
        field=name,
        expected=expected,
        found=found,
    )
