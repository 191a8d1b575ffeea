# SPDX-License-Identifier: Apache-2.0
"""Challenges: nonces of the service's own, dated, good for one use across workers and restarts.

A nonce carries its end and a MAC, so asking for one stores nothing and a flood of requests cannot fill the disk. Only
the nonces that were used are kept, until they would have expired anyhow, and a day longer: a clock that is set back
makes no used one good again.
"""

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kubenclave.dcap.describe import zulu
from kubenclave.errors import TrustError
from kubenclave.services.batches import Batches
from kubenclave.services.database import Database

MIGRATIONS: Final = (
    """
    CREATE TABLE challenge_key (only INTEGER PRIMARY KEY CHECK (only = 1), key BLOB NOT NULL);
    CREATE TABLE challenges_used (nonce BLOB PRIMARY KEY, expires INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX challenges_expired ON challenges_used (expires);
    """,
)

LIFETIME: Final = dt.timedelta(minutes=5)
_REMEMBERED: Final = dt.timedelta(days=1)  # after their end
_RANDOM: Final = 32
_TIME: Final = 8  # seconds since 1970, big-endian
_MAC: Final = 24  # of HMAC-SHA256; 64 bytes in all, the most that RFC 9711 allows for an eat_nonce


@dataclass(frozen=True, slots=True)
class Challenge:
    """A nonce (base64url without padding, 86 characters for 64 bytes) and when it ends."""

    nonce: str
    expires: dt.datetime


class Challenges:
    """Issues and redeems challenges; ``now`` gives aware UTC."""

    def __init__(self, database: Database, now: Callable[[], dt.datetime], lifetime: dt.timedelta = LIFETIME) -> None:
        self._database: Final = database
        self._now: Final = now
        self._lifetime: Final = lifetime
        self._batches: Final = Batches(self._use)
        database.migrate("challenges", MIGRATIONS)
        with database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO challenge_key VALUES (1, ?)", (secrets.token_bytes(32),))
        self._key: Final = bytes(database.read("SELECT key FROM challenge_key")[0]["key"])

    def issue(self) -> Challenge:
        """Return a new challenge; nothing is stored."""
        end = int((self._now() + self._lifetime).timestamp())
        said = secrets.token_bytes(_RANDOM) + end.to_bytes(_TIME, "big")
        return Challenge(_encode(said + self._mac(said)), dt.datetime.fromtimestamp(end, dt.UTC))

    def check(self, nonce: str) -> None:
        """Check that a nonce is ours, in date and not used, without using it: before the dear part of the work.

        Raises TrustError ``challenge.unknown``, ``challenge.expired`` or ``challenge.used``.
        """
        value, _ = self._opened(nonce)
        if self._database.read("SELECT 1 FROM challenges_used WHERE nonce = ?", (value,)):
            raise _used()

    async def redeem(self, nonce: str) -> None:
        """Use a nonce up, on disk: of several who try, in whichever worker, one comes through.

        Called once the evidence is known to be genuine, so that only genuine evidence takes up storage.
        Raises TrustError as ``check`` does.
        """
        if not await self._batches.add(self._opened(nonce)):
            raise _used()

    def _use(self, opened: Sequence[tuple[bytes, int]]) -> list[bool]:
        """Write down a batch of nonces and tell for each whether it is new."""
        with self._database.transaction() as connection:
            before = int((self._now() - _REMEMBERED).timestamp())
            connection.execute("DELETE FROM challenges_used WHERE expires < ?", (before,))
            insert = "INSERT OR IGNORE INTO challenges_used VALUES (?, ?)"
            return [connection.execute(insert, each).rowcount == 1 for each in opened]

    def _opened(self, nonce: str) -> tuple[bytes, int]:
        """Return the random part and the end of a nonce of ours that is in date."""
        said, mac = _decode(nonce)
        if not hmac.compare_digest(mac, self._mac(said)):
            raise TrustError(
                "the challenge is not one of this service's",
                code="challenge.unknown",
                hint="ask for one at /v1/challenge, and put it into the bound data as it came",
            )
        end, now = int.from_bytes(said[_RANDOM:], "big"), self._now().timestamp()
        # One that ends later than any could was made while the clock was ahead, and may be as old as that.
        if not now <= end <= now + 2 * self._lifetime.total_seconds():
            raise TrustError(
                "the challenge has expired",
                code="challenge.expired",
                found=zulu(dt.datetime.fromtimestamp(end, dt.UTC)),
                hint="ask for a new one, and send the evidence right after making it",
            )
        return said[:_RANDOM], end

    def _mac(self, said: bytes) -> bytes:
        return hmac.digest(self._key, said, hashlib.sha256)[:_MAC]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(nonce: str) -> tuple[bytes, bytes]:
    """Split a nonce into what it says and its MAC; text that is no nonce comes out as one with a wrong MAC."""
    size = _RANDOM + _TIME + _MAC
    try:
        data = base64.b64decode(nonce + "==", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != size or _encode(data) != nonce:  # one spelling only
        data = bytes(size)
    return data[:-_MAC], data[-_MAC:]


def _used() -> TrustError:
    return TrustError(
        "the challenge was used before",
        code="challenge.used",
        hint="every request needs evidence of its own, made over a new challenge",
    )
