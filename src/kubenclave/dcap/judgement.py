# SPDX-License-Identifier: Apache-2.0
"""What the service found about one piece of evidence: all that tokens, receipts and answers are made of."""

import datetime as dt
import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.verdict import QuoteVerdict


class Freshness(enum.StrEnum):
    """Whether the evidence was made for this very request."""

    CHALLENGE = "challenge"  # report data covers a challenge of ours, used once
    NONE = "none"  # it may be a recording


class DataType(enum.StrEnum):
    """How held data goes into a token."""

    BINARY = "Binary"
    JSON = "JSON"


@dataclass(frozen=True, slots=True)
class HeldData:
    """Data beside the quote that the quote speaks of by digest; ``data`` is hashed as it was received."""

    data: bytes = field(repr=False)
    kind: DataType

    @property
    def digest(self) -> bytes:
        """SHA-256 of the data, 32 bytes."""
        return hashlib.sha256(self.data).digest()


@dataclass(frozen=True, slots=True)
class PolicyReference:
    """Which policy spoke, in which version.

    ``format``: ``kubenclave`` (typed document) or ``azure`` (grammar 1.0 to 1.2). ``digest``: 32 bytes; of the typed
    document SHA-256 of its text, of an Azure one what ``x-ms-policy-hash`` holds. ``signer``: JWK of who signed it.
    ``is_default``: nobody set it, and it wants nothing.
    """

    name: str
    format: str
    version: int
    digest: bytes
    signer: Mapping[str, Any] | None = None
    is_default: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Shape in tokens, log entries and answers: which text it was, and in which version."""
        return {"name": self.name, "format": self.format, "version": self.version, "digest": self.digest.hex()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Evidence that was accepted: verified, appraised under ``policy``. Refusals are errors and never get this far.

    ``policy`` None: nobody said which enclave was wanted, and every result says so (not appraised).
    ``issued``: claims that an Azure policy issued, by name; they go into the token as they are.
    ``relaxations``: those of the verdict and those of the service (grace, debug), one line each.
    ``evidence_digest``: SHA-256 of the quote, 32 bytes.
    """

    verdict: QuoteVerdict
    collateral: Collateral
    at: dt.datetime
    evidence_digest: bytes
    policy: PolicyReference | None
    issued: Mapping[str, Any]
    relaxations: tuple[str, ...]
    freshness: Freshness
    nonce: str | None = None
    runtime_data: HeldData | None = None
    init_data: HeldData | None = None
    draft: bool = False

    @property
    def appraised(self) -> bool:
        """Whether somebody said which enclave was wanted: the default policy lets every genuine one through."""
        return self.policy is not None and not self.policy.is_default
