# SPDX-License-Identifier: Apache-2.0
"""Platforms that ask for PCK certificates, until somebody brings them; reading the queue takes nothing out of it.

PCCS empties its queue when it is read, so that an answer which gets lost loses the registrations. Here a platform
leaves only when certificates for it were stored (``done``). Several readers keep out of each other's way with a lease:
what one has taken for some time the others do not see until then.

Encrypted PPIDs, manifests and QE-IDs identify machines: they stay in the database and are never logged.
"""

import datetime as dt
import enum
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from kubenclave.errors import FormatError, PlatformError
from kubenclave.services.database import Database

MIGRATIONS: Final = (
    """CREATE TABLE platforms_registered (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        qe_id TEXT NOT NULL,
        pce_id TEXT NOT NULL,
        cpu_svn TEXT NOT NULL,
        pce_svn TEXT NOT NULL,
        enc_ppid TEXT NOT NULL,
        platform_manifest TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        registered TEXT NOT NULL,
        leased_until TEXT NOT NULL,
        UNIQUE (qe_id, pce_id)
    );""",
    """CREATE INDEX platforms_with_manifest ON platforms_registered (number) WHERE platform_manifest <> '';""",
)

CAPACITY: Final = 100_000
WITH_MANIFEST: Final = 10_000
"""Platforms that wait with a manifest: some 200 MB of honest ones, 640 MB at worst."""
MAX_MANIFEST: Final = 64 * 1024
"""Characters of a platform manifest in hex; that of a machine of eight packages has some 20,000."""
_QE_ID: Final = re.compile(r"[\x21-\x7e]{1,260}")
_HEX: Final = {"pce_id": 4, "cpu_svn": 32, "pce_svn": 4, "enc_ppid": 768}
_NO_LEASE: Final = ""  # before every time


class QueueState(enum.StrEnum):
    """Where a platform stands. The value is what ``source=`` of the API calls it."""

    NEW = "reg"
    NOT_AVAILABLE = "reg_na"  # asked for, and Intel has none (yet)


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform that registers; all in upper-case hex as clients spell it, empty where it is not told.

    Either ``manifest`` or all of ``cpu_svn`` (32 digits), ``pce_svn`` (4, little-endian) and ``enc_ppid`` (768).
    """

    qe_id: str = field(repr=False)
    pce_id: str
    cpu_svn: str = ""
    pce_svn: str = ""
    enc_ppid: str = field(default="", repr=False)
    manifest: str = field(default="", repr=False)

    @classmethod
    def from_json(cls, members: Any) -> Self:
        """Read what ``POST platforms`` takes. Raises FormatError (codes ``registration.*``) and nothing else."""
        if not isinstance(members, dict):
            raise FormatError("not a platform", code="registration.malformed", expected="a JSON object")
        qe_id = _text(members, "qe_id")
        if not _QE_ID.fullmatch(qe_id):
            raise _wrong("qe_id", "1 to 260 printable characters", qe_id)
        manifest = _text(members, "platform_manifest")
        if manifest:
            if len(manifest) > MAX_MANIFEST or not _is_hex(manifest):
                raise _wrong("platform_manifest", f"at most {MAX_MANIFEST} hex digits", manifest)
            return cls(qe_id.upper(), _digits(members, "pce_id"), manifest=manifest.upper())
        return cls(qe_id.upper(), **{name: _digits(members, name) for name in _HEX})

    def as_dict(self) -> dict[str, str]:
        """Shape in the API: what PCCS gives its administrators."""
        return {
            "qe_id": self.qe_id,
            "pce_id": self.pce_id,
            "cpu_svn": self.cpu_svn,
            "pce_svn": self.pce_svn,
            "enc_ppid": self.enc_ppid,
            "platform_manifest": self.manifest,
        }


class PlatformQueue:
    """The queue in the database of the collateral service; ``now`` returns the time in UTC."""

    def __init__(self, database: Database, now: Callable[[], dt.datetime]) -> None:
        database.migrate("queue", MIGRATIONS)
        self._database: Final = database
        self._now: Final = now

    def add(self, platform: Platform) -> None:
        """Register a platform; again, what it says now counts. Raises PlatformError ``registration.full``."""
        now = _stamp(self._now())
        row = (*platform.as_dict().values(), QueueState.NEW.value, "", now, _NO_LEASE)
        key = (platform.qe_id, platform.pce_id)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM platforms_registered WHERE qe_id = ? AND pce_id = ?", key)
            _check_room(connection, platform)
            connection.execute(
                "INSERT INTO platforms_registered (qe_id, pce_id, cpu_svn, pce_svn, enc_ppid, platform_manifest, "
                "state, reason, registered, leased_until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def waiting(self, state: QueueState, *, lease: dt.timedelta = dt.timedelta()) -> list[Platform]:
        """Return the platforms in that state, first come first; those that somebody else has leased are left out.

        With a ``lease`` others do not see them for that long. They stay in the queue whatever becomes of the answer.
        """
        now = self._now()
        condition = "state = ? AND leased_until <= ?"
        parameters = (state.value, _stamp(now))
        if not lease:
            return _platforms(
                self._database.read(
                    f"SELECT * FROM platforms_registered WHERE {condition} ORDER BY number",  # noqa: S608 - constant
                    parameters,
                )
            )
        with self._database.transaction() as connection:
            rows = connection.execute(
                f"UPDATE platforms_registered SET leased_until = ? WHERE {condition} RETURNING *",  # noqa: S608
                (_stamp(now + lease), *parameters),
            ).fetchall()
        return _platforms(sorted(rows, key=lambda row: row["number"]))

    def done(self, platforms: Iterable[tuple[str, str]]) -> int:
        """Take out platforms, by QE-ID and PCE-ID, for which certificates are stored; return how many there were."""
        keys = [(qe_id.upper(), pce_id.upper()) for qe_id, pce_id in platforms]
        with self._database.transaction() as connection:
            return sum(
                connection.execute("DELETE FROM platforms_registered WHERE qe_id = ? AND pce_id = ?", key).rowcount
                for key in keys
            )

    def not_available(self, qe_id: str, pce_id: str, reason: str) -> None:
        """Note that there are no certificates for a platform (yet), and why."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE platforms_registered SET state = ?, reason = ? WHERE qe_id = ? AND pce_id = ?",
                (QueueState.NOT_AVAILABLE.value, reason, qe_id.upper(), pce_id.upper()),
            )

    def lengths(self) -> dict[QueueState, int]:
        """Return how many platforms are in each state, leased or not."""
        rows = self._database.read("SELECT state, count(*) AS count FROM platforms_registered GROUP BY state")
        counts = {row["state"]: int(row["count"]) for row in rows}
        return {state: counts.get(state.value, 0) for state in QueueState}


def _check_room(connection: sqlite3.Connection, platform: Platform) -> None:
    """Raise PlatformError ``registration.full`` when one more does not fit."""
    every = "SELECT count(*) FROM platforms_registered"
    bounds = [(every, CAPACITY, "platforms")]
    if platform.manifest:
        bounds.append((f"{every} WHERE platform_manifest <> ''", WITH_MANIFEST, "platforms with a manifest"))
    for query, most, what in bounds:
        (found,) = connection.execute(query).fetchone()
        if found >= most:
            raise PlatformError(
                "the registration queue is full",
                code="registration.full",
                found=f"{found} {what}",
                hint="fetch certificates for those that wait: kubenclave collateral status",
            )


def _platforms(rows: Iterable[sqlite3.Row]) -> list[Platform]:
    return [
        Platform(row["qe_id"], row["pce_id"], row["cpu_svn"], row["pce_svn"], row["enc_ppid"], row["platform_manifest"])
        for row in rows
    ]


def _stamp(moment: dt.datetime) -> str:
    """Return a time that sorts as text."""
    return moment.astimezone(dt.UTC).isoformat(timespec="microseconds")


def _text(members: Mapping[str, Any], name: str) -> str:
    """Return a member that may be absent or null as text."""
    value = members.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FormatError(
            "not a platform",
            code="registration.malformed",
            field=name,
            expected="a string",
            found=type(value).__name__,
        )
    return value


def _digits(members: Mapping[str, Any], name: str) -> str:
    value = _text(members, name)
    if len(value) != _HEX[name] or not _is_hex(value):
        raise _wrong(name, f"{_HEX[name]} hex digits", value)
    return value.upper()


def _is_hex(text: str) -> bool:
    return re.fullmatch(r"[0-9A-Fa-f]+", text) is not None


def _wrong(name: str, expected: str, value: str) -> FormatError:
    """Return the refusal of a member; what was sent may identify a machine and is not repeated."""
    return FormatError(
        "not a platform",
        code="registration.malformed",
        field=name,
        expected=expected,
        found=f"{len(value)} characters" if value else "nothing",
    )
