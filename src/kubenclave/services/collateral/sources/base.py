# SPDX-License-Identifier: Apache-2.0
"""What every source of collateral can be asked, and how it says no."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kubenclave.errors import KubenclaveError, UnreachableError
from kubenclave.services.collateral.items import ItemKey
from kubenclave.wire.pcs import PckEntry


@dataclass(frozen=True, slots=True)
class Fetched:
    """An item as a source has it: CRLs in DER, documents whole as PCS sends them; the chain in PEM, or empty."""

    body: bytes = field(repr=False)
    issuer_chain: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PckRequest:
    """Whose PCK certificates are wanted. SVNs and ids are bytes as the platform writes them, little-endian.

    ``qe_id`` (hexadecimal digits, as a rule 32) and ``encrypted_ppid`` (384 bytes, for Intel alone to read) identify
    the machine, as does the platform manifest (hexadecimal digits): none belongs into a log. Caches go by the QE-ID,
    Intel by the others.
    """

    qe_id: str = field(repr=False)
    pce_id: bytes
    cpu_svn: bytes
    pce_svn: bytes
    encrypted_ppid: bytes | None = field(default=None, repr=False)
    manifest: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PckAnswer:
    """PCK certificates of one platform: all that there are, or just that for the TCB that was asked for.

    ``issuer_chain`` is PCK CA and root in PEM. ``tcbm`` of an entry tells for which TCB it is.
    """

    entries: tuple[PckEntry, ...]
    issuer_chain: bytes = field(repr=False)


class Source(Protocol):
    """A source of collateral.

    Both questions raise ``SourceError`` when there is no answer, ``UnknownError`` when the answer is that there is no
    such thing, FormatError when it cannot be understood.
    """

    @property
    def name(self) -> str:
        """What status and items call it by."""
        ...

    async def fetch(self, key: ItemKey) -> Fetched:
        """Return one item."""
        ...

    async def pck_certs(self, request: PckRequest) -> PckAnswer:
        """Return the PCK certificates of a platform."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class SourceError(UnreachableError):
    """A source gives no answer. ``retry_after`` is how long it wants to be left alone, where it says so."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        field: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
        retry_after: dt.timedelta | None = None,
    ) -> None:
        super().__init__(message, code=code, field=field, expected=expected, found=found, hint=hint)
        self.retry_after = retry_after


class UnknownError(UnreachableError):
    """A source answers that there is no such item or platform."""

    http_status = 404


def most_telling(failures: Sequence[KubenclaveError], what: str) -> KubenclaveError:
    """Return which of several sources' failures to tell of: that one knows no such thing says least."""
    if not failures:
        return unknown(what, "any source", "no source is configured")
    return next((each for each in failures if not isinstance(each, UnknownError)), failures[0])


def unknown(what: str, source: str, why: str | None = None) -> UnknownError:
    """Return the refusal of a source that does not know ``what``."""
    return UnknownError(
        "the source has no such item",
        code="collateral.unknown",
        field=what,
        expected=f"known to {source}",
        found=why,
        hint="compare FMSPC, CA and generation with what the platform says of itself (quote show)",
    )
