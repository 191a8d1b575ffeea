# SPDX-License-Identifier: Apache-2.0
"""Where the good copies of items are, and what became of the attempts to renew them.

A copy is replaced in one transaction, and never by an older one. Copies and attempts are in tables of their own: a
failure touches no copy.
"""

import datetime as dt
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from kubenclave.dcap.describe import zulu
from kubenclave.errors import KubenclaveError, TrustError, UsageError
from kubenclave.services.collateral.items import Item, ItemKey, Kind, Tee
from kubenclave.services.database import Database

MIGRATIONS: Final = (
    """
CREATE TABLE collateral_items (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, tee TEXT NOT NULL, generation TEXT NOT NULL,
    body BLOB NOT NULL, issuer_chain BLOB NOT NULL, issued INTEGER NOT NULL, next_update INTEGER NOT NULL,
    number INTEGER NOT NULL, source TEXT NOT NULL, fetched INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE collateral_attempts (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, tee TEXT NOT NULL, generation TEXT NOT NULL,
    last_used INTEGER NOT NULL, next_try INTEGER NOT NULL, last_success INTEGER, failures INTEGER NOT NULL DEFAULT 0,
    error_code TEXT, error TEXT, failed INTEGER
) WITHOUT ROWID;
CREATE TABLE collateral_sources (
    name TEXT PRIMARY KEY, last_success INTEGER, failures INTEGER NOT NULL DEFAULT 0,
    error_code TEXT, error TEXT, failed INTEGER
) WITHOUT ROWID;
""",
    "CREATE TABLE collateral_root (only INTEGER PRIMARY KEY CHECK (only = 1), root TEXT NOT NULL);",
)

_STATUS: Final = """
SELECT * FROM collateral_attempts
LEFT JOIN (SELECT name, source, issued, next_update, number, fetched FROM collateral_items) USING (name)
WHERE name = coalesce(?, name) ORDER BY name
"""
_RENEWABLE: Final = (
    "last_used >= ? AND (name IN (SELECT name FROM collateral_items)"
    " OR failures = 0 OR (failures < 5 AND error_code <> 'collateral.unknown'))"
)
_KEY: Final = ("kind", "subject", "tee", "generation")
_LONGEST_TEXT: Final = 500
_USE_GRAIN: Final = 3600  # seconds: a use is noted once an hour, so that reading need not write
_MOST_ATTEMPTS: Final = 10_000  # names that nobody ever got an item for: anybody may ask for a made-up FMSPC


@dataclass(frozen=True, slots=True)
class ItemStatus:
    """What there is of an item, and how the last attempt to renew it went. Times are None where there was none.

    ``issued`` to ``fetched`` speak of the copy; ``error_code``, ``error`` and ``failed`` of the last failure, which is
    over where ``failures`` (in a row) is 0.
    """

    key: ItemKey
    source: str | None
    issued: dt.datetime | None
    next_update: dt.datetime | None
    number: int
    fetched: dt.datetime | None
    last_used: dt.datetime
    next_try: dt.datetime
    last_success: dt.datetime | None
    failures: int
    error_code: str | None
    error: str | None
    failed: dt.datetime | None


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source answers: ``failures`` in a row, and the last of them."""

    name: str
    last_success: dt.datetime | None
    failures: int
    error_code: str | None
    error: str | None
    failed: dt.datetime | None


class Store:
    """Items in a database that several workers share."""

    def __init__(self, database: Database, now: Callable[[], dt.datetime]) -> None:
        self.database: Final = database
        self._now: Final = now
        database.migrate("collateral", MIGRATIONS)

    def keep_to(self, root: str) -> None:
        """Note under which root (``TrustAnchor.digest``) copies are verified: they are served without being so again.

        Raises UsageError ``collateral.other-root`` where it was another one.
        """
        with self.database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO collateral_root VALUES (1, ?)", (root,))
            kept = connection.execute("SELECT root FROM collateral_root").fetchone()["root"]
        if kept != root:
            raise UsageError(
                "the state directory holds collateral of another root",
                code="collateral.other-root",
                field=str(self.database.path),
                expected=f"root {kept[:16]}",
                found=f"root {root[:16]}",
                hint="give each root a directory of its own",
            )

    def get(self, key: ItemKey) -> Item | None:
        """Return the good copy, whatever its age; None where there is none."""
        rows = self.database.read("SELECT * FROM collateral_items WHERE name = ?", (str(key),))
        return _item(rows[0]) if rows else None

    def items(self) -> list[Item]:
        """Return all copies, by name."""
        return [_item(row) for row in self.database.read("SELECT * FROM collateral_items ORDER BY name")]

    def keys(self) -> list[ItemKey]:
        """Return the names of all copies."""
        return [_key(row) for row in self.database.read("SELECT * FROM collateral_items ORDER BY name")]

    def put(self, item: Item, *, allow_rollback: bool = False) -> None:
        """Keep a checked item in place of the copy there was.

        Raises TrustError ``collateral.rollback`` for one with a lower TCB evaluation data number or issued earlier
        than that copy, unless ``allow_rollback``.
        """
        self.put_all([item], allow_rollback=allow_rollback)

    def put_all(self, items: Iterable[Item], *, allow_rollback: bool = False) -> None:
        """Keep all of the items, or none when one of them is refused; as ``put``."""
        with self.database.transaction() as connection:
            for item in items:
                _put(connection, item, allow_rollback=allow_rollback)
                _ensure(connection, item.key, _seconds(self._now()))  # so that it is renewed in its turn

    # Attempts

    def attempt(self, key: ItemKey) -> ItemStatus | None:
        """Return what is known of an item, None where nobody has asked for it yet."""
        return next(iter(self._statuses(str(key))), None)

    def status(self) -> list[ItemStatus]:
        """Return what is known of every item, by name."""
        return self._statuses()

    def is_new_use(self, key: ItemKey) -> bool:
        """Tell whether a use of the item has to be noted (``note_use``): at most once an hour."""
        rows = self.database.read("SELECT last_used FROM collateral_attempts WHERE name = ?", (str(key),))
        return not rows or rows[0]["last_used"] + _USE_GRAIN <= _seconds(self._now())

    def note_use(self, key: ItemKey) -> None:
        """Note that somebody wants the item: what is wanted is renewed."""
        now = _seconds(self._now())
        with self.database.transaction() as connection:
            _ensure(connection, key, now)
            connection.execute("UPDATE collateral_attempts SET last_used = ? WHERE name = ?", (now, str(key)))

    def due(self, *, used_since: dt.datetime) -> list[ItemKey]:
        """Return what is to be renewed now, of what was wanted since then; the most urgent first.

        What never was there is tried a few times, and not at all once a source has said that there is no such thing:
        then it waits until somebody asks again.
        """
        rows = self.database.read(
            f"SELECT * FROM collateral_attempts WHERE next_try <= ? AND {_RENEWABLE} ORDER BY next_try",  # noqa: S608
            (_seconds(self._now()), _seconds(used_since)),
        )
        return [_key(row) for row in rows]

    def next_due(self, *, used_since: dt.datetime) -> dt.datetime | None:
        """Return when the next item is due."""
        rows = self.database.read(
            f"SELECT MIN(next_try) AS next FROM collateral_attempts WHERE {_RENEWABLE}",  # noqa: S608
            (_seconds(used_since),),
        )
        return _time(rows[0]["next"])

    def claim(self, key: ItemKey, until: dt.datetime) -> bool:
        """Take an item that is due for this worker, until then; False when another worker has it."""
        with self.database.transaction() as connection:
            changed = connection.execute(
                "UPDATE collateral_attempts SET next_try = ? WHERE name = ? AND next_try <= ?",
                (_seconds(until), str(key), _seconds(self._now())),
            )
            return changed.rowcount == 1

    def succeeded(self, key: ItemKey, next_try: dt.datetime) -> None:
        """Note that the item was renewed, and when it will be again."""
        now = _seconds(self._now())
        with self.database.transaction() as connection:
            _ensure(connection, key, now)
            connection.execute(
                "UPDATE collateral_attempts SET last_success = ?, next_try = ?, failures = 0 WHERE name = ?",
                (now, _seconds(next_try), str(key)),
            )

    def failed(self, key: ItemKey, error: KubenclaveError, next_try: dt.datetime) -> None:
        """Note why the item was not renewed, and when it will be tried again."""
        now = _seconds(self._now())
        with self.database.transaction() as connection:
            _ensure(connection, key, now)
            connection.execute(
                "UPDATE collateral_attempts SET failed = ?, next_try = ?, failures = failures + 1, error_code = ?,"
                " error = ? WHERE name = ?",
                (now, _seconds(next_try), error.code, str(error)[:_LONGEST_TEXT], str(key)),
            )
            _forget_oldest(connection)

    # Sources

    def sources(self) -> list[SourceStatus]:
        """Return how each source that was ever asked answers, by name."""
        rows = self.database.read("SELECT * FROM collateral_sources ORDER BY name")
        return [
            SourceStatus(
                row["name"],
                _time(row["last_success"]),
                row["failures"],
                row["error_code"],
                row["error"],
                _time(row["failed"]),
            )
            for row in rows
        ]

    def source_answered(self, name: str, error: KubenclaveError | None) -> None:
        """Note that a source answered well (None), or what went wrong with it."""
        now = _seconds(self._now())
        with self.database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO collateral_sources (name) VALUES (?)", (name,))
            if error is None:
                connection.execute(
                    "UPDATE collateral_sources SET last_success = ?, failures = 0 WHERE name = ?", (now, name)
                )
            else:
                connection.execute(
                    "UPDATE collateral_sources SET failed = ?, failures = failures + 1, error_code = ?, error = ?"
                    " WHERE name = ?",
                    (now, error.code, str(error)[:_LONGEST_TEXT], name),
                )

    def _statuses(self, name: str | None = None) -> list[ItemStatus]:
        return [_status(row) for row in self.database.read(_STATUS, (name,))]


def _status(row: sqlite3.Row) -> ItemStatus:
    return ItemStatus(
        key=_key(row),
        source=row["source"],
        issued=_time(row["issued"]),
        next_update=_time(row["next_update"]),
        number=row["number"] or 0,
        fetched=_time(row["fetched"]),
        last_used=dt.datetime.fromtimestamp(row["last_used"], dt.UTC),
        next_try=dt.datetime.fromtimestamp(row["next_try"], dt.UTC),
        last_success=_time(row["last_success"]),
        failures=row["failures"],
        error_code=row["error_code"],
        error=row["error"],
        failed=_time(row["failed"]),
    )


def _put(connection: sqlite3.Connection, item: Item, *, allow_rollback: bool) -> None:
    name = str(item.key)
    row = connection.execute("SELECT * FROM collateral_items WHERE name = ?", (name,)).fetchone()
    if row is not None and not allow_rollback:
        _refuse_older(item, _item(row))
    connection.execute(
        "INSERT OR REPLACE INTO collateral_items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            name,
            *_columns(item.key),
            item.body,
            item.issuer_chain,
            _seconds(item.issued),
            _seconds(item.next_update),
            item.number,
            item.source,
            _seconds(item.fetched),
        ),
    )


def _refuse_older(item: Item, held: Item) -> None:
    if item.number < held.number:
        raise _rollback(item, "TCB evaluation data number", str(held.number), str(item.number))
    if _seconds(item.issued) < _seconds(held.issued):
        raise _rollback(item, "issue date", zulu(held.issued), zulu(item.issued))


def _rollback(item: Item, field: str, held: str, found: str) -> TrustError:
    return TrustError(
        "genuine, but older than what is held",
        code="collateral.rollback",
        field=f"{field} of {item.key}",
        expected=f"{held} or later",
        found=found,
        hint="the source serves old data; where that is meant, dangerously_allow_rollback lets it through",
    )


def _ensure(connection: sqlite3.Connection, key: ItemKey, now: int) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO collateral_attempts (name, kind, subject, tee, generation, last_used, next_try)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (str(key), *_columns(key), now, now),
    )


def _forget_oldest(connection: sqlite3.Connection) -> None:
    """Keep the number of names without an item bounded."""
    connection.execute(
        "DELETE FROM collateral_attempts WHERE name IN (SELECT name FROM collateral_attempts WHERE name NOT IN"
        " (SELECT name FROM collateral_items) ORDER BY last_used DESC LIMIT -1 OFFSET ?)",
        (_MOST_ATTEMPTS,),
    )


def _columns(key: ItemKey) -> tuple[str, str, str, str]:
    return key.kind.value, key.subject, key.tee.value, key.update


def _key(row: sqlite3.Row) -> ItemKey:
    kind, subject, tee, generation = (row[name] for name in _KEY)
    return ItemKey(Kind(kind), subject, Tee(tee), generation)


def _item(row: sqlite3.Row) -> Item:
    return Item(
        key=_key(row),
        body=row["body"],
        issuer_chain=row["issuer_chain"],
        issued=dt.datetime.fromtimestamp(row["issued"], dt.UTC),
        next_update=dt.datetime.fromtimestamp(row["next_update"], dt.UTC),
        number=row["number"],
        source=row["source"],
        fetched=dt.datetime.fromtimestamp(row["fetched"], dt.UTC),
    )


def _seconds(moment: dt.datetime) -> int:
    return int(moment.timestamp())


def _time(seconds: int | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
